"""λ1 × λ2: the same as ``mdssl sweep lambda-grid``, which is in `mdssl/cli/sweeps/lambda_grid.py`."""

import sys

from mdssl.cli.main import as_script

main = as_script("sweep", "lambda-grid")

if __name__ == "__main__":
    sys.exit(main())
