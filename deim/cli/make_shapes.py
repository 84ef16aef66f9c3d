"""Generate the small dataset of the quick start.

    deim make-shapes datasets/deim_shapes
    deim make-shapes datasets/deim_shapes --masks --keypoints

Writes train/, val/ and annotations/ to the folder. The images and boxes are the same with and without --masks and
--keypoints.
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
    parser.add_argument("--masks", action="store_true", help="write the mask of each shape as polygons")
    parser.add_argument("--keypoints", action="store_true", help="write five keypoints of each shape, and a skeleton")


def run(args: argparse.Namespace) -> None:
    for count, total in write_shapes(
        args.folder, args.train_images, args.val_images, args.size, args.seed, args.masks, args.keypoints
    ):
        if count % 50 == 0 or count == total:
            print(f"\r{count}/{total} images", end="" if count < total else "\n", flush=True)
