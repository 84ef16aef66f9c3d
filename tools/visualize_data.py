#!/usr/bin/env python
"""Draw the first training batch of an epoch, as the model gets it, and count its objects.

python tools/visualize_data.py --config-file projects/... --epoch 10 --output batch.png
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import deim  # noqa: F401 - first: it supplies detectron2 and detrex where they are missing
from deim.command_line import run_tool
from deim.config import load_config
from deim.data.inspection import draw_training_batch

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--data", metavar="PATH", help="a data set in place of the recipe's, as in tools/train_net.py")
    parser.add_argument("--epoch", type=int, default=0, help="counted from 0")
    parser.add_argument("--output", required=True, help="the PNG to write")
    parser.add_argument("--batches", type=int, default=8, help="how many batches to count objects in")
    parser.add_argument("--images", type=int, default=12, help="how many images to draw")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides, key=value")
    args = parser.parse_args()
    sys.exit(
        run_tool(
            lambda: draw_training_batch(
                load_config(args.config_file, args.opts, args.data), args.epoch, args.output, args.batches, args.images
            )
        )
    )
