"""Search: the same as ``mdssl sweep search``, which is in `mdssl/cli/sweeps/search.py`."""

import sys

from mdssl.cli.main import as_script

main = as_script("sweep", "search")

if __name__ == "__main__":
    sys.exit(main())
