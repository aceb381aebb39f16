"""Mixtures: the same as ``mdssl sweep mixtures``, which is in `mdssl/cli/sweeps/mixtures.py`."""

import sys

from mdssl.cli.main import as_script

main = as_script("sweep", "mixtures")

if __name__ == "__main__":
    sys.exit(main())
