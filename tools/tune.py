#!/usr/bin/env python
"""Search over config keys: train with different values, and report the best.

Same as ``deim tune``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deim.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("tune"))
