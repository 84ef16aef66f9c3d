#!/usr/bin/env python
"""Prepare Objects365 v2 for training, as D-FINE does.

Same as ``deim prepare-objects365``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deim.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("prepare-objects365"))
