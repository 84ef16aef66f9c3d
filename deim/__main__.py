"""``python -m deim``: the same as the command ``deim``."""

import sys

from deim.cli import main

if __name__ == "__main__":
    sys.exit(main())
