#!/usr/bin/env python
"""Draw the first training batch of an epoch as the model receives it.

Same as ``deim view-data``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deim.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("view-data"))
