"""Clustering schedules: the same as ``mdssl sweep clustering``, which is in `mdssl/cli/sweeps/clustering.py`."""

import sys

from mdssl.cli.main import as_script

main = as_script("sweep", "clustering")

if __name__ == "__main__":
    sys.exit(main())
