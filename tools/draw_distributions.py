#!/usr/bin/env python
"""Plot how the D-FINE decoder refines the box edges of its best detections.

Same as ``deim draw-distributions``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deim.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("draw-distributions"))
