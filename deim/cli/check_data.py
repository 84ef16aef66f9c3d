"""Check a data set before training: counts, classes, sizes, problems, sample images.

    deim check-data --config-file deim_dfine/deim_dfine_s_coco --data path/to/your/data --output check

The exit status is 1 if the data set cannot be trained on.
"""

import argparse

from deim.cli.arguments import add_config
from deim.config import load_config
from deim.data.limits import Limits
from deim.data.report import check_dataset
from deim.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--split", choices=("train", "test"), default="train")
    parser.add_argument("--output", default="check", help="folder for the drawn images")
    parser.add_argument("--skip-images", action="store_true", help="do not decode every image")
    parser.add_argument("--images", type=int, default=12, help="how many images to draw")


def run(args: argparse.Namespace) -> int:
    cfg = load_config(args.config_file, args.opts, args.data)
    dataset = cfg.dataloader[args.split].get("dataset")
    if dataset is None or "name" not in dataset:
        raise ConfigError(f"dataloader.{args.split}.dataset of {args.config_file} has no name")
    sound = check_dataset(dataset, args.output, not args.skip_images, args.images, Limits.of(cfg), args.split)
    return 0 if sound else 1
