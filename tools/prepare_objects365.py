#!/usr/bin/env python
"""Make Objects365 v2 ready for training, as D-FINE does: 5000 validation images, the others trained on,
all with a longer side of at most 640.

ln -s ../../val/images/v1 ../../val/images/v2 datasets/objects365/train/images_from_val/
python tools/prepare_objects365.py datasets/objects365
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import deim  # noqa: F401 - first: it supplies detectron2 and detrex where they are missing
from deim.command_line import run_tool
from deim.data.datasets import objects365


def prepare(args: argparse.Namespace) -> None:
    objects365.move_validation_images(args.folder, args.val_images)
    for split in ("train", "val"):
        annotations = objects365.annotation_path(args.folder, split)
        annotations = annotations.with_name(objects365.PREFIX + annotations.name)
        faults = objects365.resize_images(annotations, args.folder / split, args.max_size, args.workers)
        for fault in faults:
            print(f"left out: {fault}", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds train/ and val/ with zhiyuan_objv2_{train,val}.json")
    parser.add_argument("--val-images", type=int, default=5000, help="how many stay in the validation set")
    parser.add_argument("--max-size", type=int, default=640, help="of the longer side, in pixels")
    parser.add_argument("--workers", type=int, default=4)
    args = parser.parse_args()
    sys.exit(run_tool(lambda: prepare(args)))
