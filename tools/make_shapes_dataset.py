#!/usr/bin/env python
"""Generate the small dataset of the quick start.

Same as ``deim make-shapes``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deim.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("make-shapes"))
