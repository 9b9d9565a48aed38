"""``python -m sslconnector``: the same as the command ``sslconnector``."""

from .harness.cli import main

if __name__ == "__main__":
    main()
