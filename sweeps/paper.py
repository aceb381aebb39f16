"""The paper's experiments: the same as ``mdssl sweep paper``, which is in `mdssl/cli/sweeps/paper.py`."""

import sys

from mdssl.cli.main import as_script

main = as_script("sweep", "paper")

if __name__ == "__main__":
    sys.exit(main())
