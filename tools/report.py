#!/usr/bin/env python
"""Write what a run is worth on one HTML page: scores, classes, errors, thresholds, pictures.

python tools/report.py output/deim_dfine_s_coco

Evaluates the best weights of the run on its test images, and writes report.html beside them.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import deim  # noqa: F401 - first: it supplies detectron2 and detrex where they are missing
from deim.command_line import run_tool
from deim.engine.report import write_report

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="train.output_dir of the run")
    parser.add_argument("--weights", help="a checkpoint; default: model_best.pth or model_final.pth of the run")
    parser.add_argument("opts", nargs="*", help="config overrides, key=value")
    args = parser.parse_intermixed_args()
    sys.exit(run_tool(lambda: print(f"wrote {write_report(args.folder, args.weights, args.opts)}")))
