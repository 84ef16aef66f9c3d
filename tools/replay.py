#!/usr/bin/env python
"""Repeat a training step that had NaN/Inf loss or gradients.

Same as ``deim replay``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deim.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("replay"))
