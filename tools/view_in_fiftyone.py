#!/usr/bin/env python
"""Show a dataset, or the detections and mistakes of a run, in FiftyOne.

Same as ``deim view``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deim.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("view"))
