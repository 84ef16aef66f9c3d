#!/usr/bin/env python
"""Look a recipe's data set over: counts, classes, sizes, problems, pictures. Exit status 1 if it cannot be
trained on.

python tools/check_dataset.py --config-file projects/... --output check \\
    dataloader.train.dataset.json_file=... dataloader.train.dataset.image_root=...
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import deim  # noqa: F401 - first: it supplies detectron2 and detrex where they are missing
from deim.command_line import run_tool
from deim.config import load_config
from deim.data.report import check_dataset
from deim.errors import ConfigError


def check(args: argparse.Namespace) -> bool:
    dataset = load_config(args.config_file, args.opts, args.data).dataloader[args.split].get("dataset")
    if dataset is None or "name" not in dataset:
        raise ConfigError(f"dataloader.{args.split}.dataset of {args.config_file} has no name")
    return check_dataset(dataset, args.output, not args.skip_images, args.images)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--data", metavar="PATH", help="a data set in place of the recipe's, as in tools/train_net.py")
    parser.add_argument("--split", choices=("train", "test"), default="train")
    parser.add_argument("--output", default="check", help="folder for what is drawn")
    parser.add_argument("--skip-images", action="store_true", help="do not decode every image")
    parser.add_argument("--images", type=int, default=12, help="how many images to draw")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides, key=value")
    args = parser.parse_args()
    sound: list[bool] = []
    status = run_tool(lambda: sound.append(check(args)))
    sys.exit(status or int(not sound[0]))
