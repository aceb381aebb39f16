"""``python -m mdssl``."""

import sys

from mdssl.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
