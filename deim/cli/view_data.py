"""Draw the first training batch of an epoch as the model receives it.

    deim view-data --config-file deim_dfine/deim_dfine_s_coco --epoch 10 --output batch.png

Also prints the mean number of objects per image over several batches, with and without mosaic and batch operations.
"""

import argparse

from deim.cli.arguments import add_config
from deim.config import load_config
from deim.data.inspection import draw_training_batch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--epoch", type=int, default=0, help="epoch, counted from 0; default: %(default)s")
    parser.add_argument("--output", required=True, help="PNG file to write")
    parser.add_argument(
        "--batches", type=int, default=8, help="number of batches over which to count objects; default: %(default)s"
    )
    parser.add_argument("--images", type=int, default=12, help="number of images to draw; default: %(default)s")


def run(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, args.opts, args.data, args.image_root, dict(args.switches))
    draw_training_batch(cfg, args.epoch, args.output, args.batches, args.images)
