#!/usr/bin/env python
"""Draw detections of a checkpoint beside the ground truth, on the first images of the test split.

    python tools/draw_predictions.py --config-file projects/... --output predictions.png \\
        train.init_checkpoint=output/run/model_final.pth
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import deim  # noqa: F401 - first: it supplies detectron2 and detrex where they are missing
from deim.command_line import run_tool
from deim.config import load_config
from deim.engine.drawing import draw_predictions

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--data", metavar="PATH", help="a data set in place of the recipe's, as in tools/train_net.py")
    parser.add_argument("--output", required=True, help="the PNG to write")
    parser.add_argument("--images", type=int, default=12, help="how many images to draw")
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest score that is drawn")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides, key=value")
    args = parser.parse_args()
    status = run_tool(
        lambda: draw_predictions(
            load_config(args.config_file, args.opts, args.data), args.output, args.images, args.threshold
        )
    )
    if status == 0:
        print(f"wrote {args.output}")
    sys.exit(status)
