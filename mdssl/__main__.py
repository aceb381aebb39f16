"""``python -m mdssl``."""

from mdssl.cli.main import main

if __name__ == "__main__":
    main()
