#!/usr/bin/env python
"""Compare recipes numerically with the official code."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deim.cli import run_module

if __name__ == "__main__":
    sys.exit(run_module("benchmarks.verify", sys.argv[1:], None))
