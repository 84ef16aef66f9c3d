"""Draw detections next to the ground truth for the first test images.

    deim draw-predictions --config-file deim_dfine/deim_dfine_s_coco --output predictions.png \\
        train.init_checkpoint=output/run/model_final.pth
"""

import argparse

from deim.cli.arguments import add_config
from deim.config import load_config
from deim.reporting.drawing import draw_predictions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--output", required=True, help="PNG file to write")
    parser.add_argument("--images", type=int, default=12, help="number of images to draw; default: %(default)s")
    parser.add_argument("--threshold", type=float, default=0.5, help="minimum score; default: %(default)s")


def run(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, args.opts, args.data, args.image_root, dict(args.switches))
    draw_predictions(cfg, args.output, args.images, args.threshold)
    print(f"wrote {args.output}")
