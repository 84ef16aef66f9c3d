#!/usr/bin/env python
"""Train a recipe with its components switched on and off, and compare the results.

Same as ``deim ablate``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deim.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("ablate"))
