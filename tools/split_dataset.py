#!/usr/bin/env python
"""Split a dataset for validation or cross-validation, keeping near-duplicate images together.

Same as ``deim split``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deim.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("split"))
