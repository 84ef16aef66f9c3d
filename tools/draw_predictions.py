#!/usr/bin/env python
"""Draw detections next to the ground truth for the first test images.

Same as ``deim draw-predictions``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deim.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("draw-predictions"))
