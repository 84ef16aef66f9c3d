#!/usr/bin/env python
"""Submit a training run to SLURM that resumes after preemption.

Same as ``deim slurm``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deim.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("slurm"))
