"""Generate the small dataset of the quick start.

    deim make-shapes datasets/deim_shapes

Writes train/, val/ and annotations/ to the folder.
"""

import argparse
from pathlib import Path

from deim.data.datasets.shapes import write_shapes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="output directory for train/, val/ and annotations/")
    parser.add_argument("--train-images", type=int, default=600, help="number of training images; default: %(default)s")
    parser.add_argument("--val-images", type=int, default=100, help="number of validation images; default: %(default)s")
    parser.add_argument(
        "--size", type=int, default=192, help="longer side of the images in pixels; default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=7, help="random seed; default: %(default)s")


def run(args: argparse.Namespace) -> None:
    for count, total in write_shapes(args.folder, args.train_images, args.val_images, args.size, args.seed):
        if count % 50 == 0 or count == total:
            print(f"\r{count}/{total} images", end="" if count < total else "\n", flush=True)
