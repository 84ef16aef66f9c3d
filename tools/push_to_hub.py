#!/usr/bin/env python
"""Publish a model on the Hugging Face Hub, with a model card.

Same as ``deim push``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deim.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("push"))
