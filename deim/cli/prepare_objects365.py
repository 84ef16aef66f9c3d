"""Prepare Objects365 v2 for training, as D-FINE does.

    mkdir -p datasets/objects365/train/images_from_val
    ln -s ../../val/images/v1 ../../val/images/v2 datasets/objects365/train/images_from_val/
    deim prepare-objects365 datasets/objects365

Writes new annotation files that assign all but 5000 validation images to the training set, and copies of larger images,
scaled to a longer side of 640 pixels. The links make the validation images available to the training set.
"""

import argparse
import sys
from pathlib import Path

from deim.data.datasets import objects365


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=Path, help="download with train/ and val/, which contain zhiyuan_objv2_{train,val}.json"
    )
    parser.add_argument(
        "--val-images", type=int, default=5000, help="images that remain in the validation set; default: %(default)s"
    )
    parser.add_argument(
        "--max-size", type=int, default=640, help="maximum length of the longer side in pixels; default: %(default)s"
    )
    parser.add_argument(
        "--workers", type=int, default=4, help="number of processes that resize images; default: %(default)s"
    )


def run(args: argparse.Namespace) -> None:
    objects365.move_validation_images(args.folder, args.val_images)
    for split in ("train", "val"):
        annotations = objects365.annotation_path(args.folder, split)
        annotations = annotations.with_name(objects365.PREFIX + annotations.name)
        problems = objects365.resize_images(annotations, args.folder / split, args.max_size, args.workers)
        for problem in problems:
            print(f"skipped: {problem}", file=sys.stderr)
