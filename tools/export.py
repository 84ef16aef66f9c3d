#!/usr/bin/env python
"""Export a trained model to ONNX, OpenVINO, TensorRT and other formats.

Same as ``deim export``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deim.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("export"))
