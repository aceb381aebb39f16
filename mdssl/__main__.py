"""``python -m mdssl``."""

from mdssl.cli import main

if __name__ == "__main__":
    main()
