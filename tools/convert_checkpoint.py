#!/usr/bin/env python
"""Convert checkpoints between the official, detrex, Hugging Face and native formats.

Same as ``deim convert``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deim.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("convert"))
