#!/usr/bin/env python
"""Write an HTML report of a finished run: scores, classes, errors, thresholds, sample images.

Same as ``deim report``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deim.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("report"))
