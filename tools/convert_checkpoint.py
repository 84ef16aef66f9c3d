#!/usr/bin/env python
"""Convert a checkpoint between this project, the official code, detrex and Hugging Face. Same as ``deim convert``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deim.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("convert"))
