#!/usr/bin/env python
"""Draw the small data set of the quick start. The same as ``deim make-shapes``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deim.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("make-shapes"))
