#!/usr/bin/env python
"""Check a dataset before training: counts, classes, sizes, problems, sample images.

Same as ``deim check-data``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deim.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("check-data"))
