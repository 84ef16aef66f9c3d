#!/usr/bin/env python
"""Draw the data set ``deim_shapes``.

python tools/make_shapes_dataset.py datasets/deim_shapes
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deim.data.datasets.shapes import write_shapes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where train/, val/ and annotations/ are written")
    parser.add_argument("--train-images", type=int, default=600)
    parser.add_argument("--val-images", type=int, default=100)
    parser.add_argument("--size", type=int, default=192, help="longer side of the images in pixels")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    for done, total in write_shapes(args.folder, args.train_images, args.val_images, args.size, args.seed):
        if done % 50 == 0 or done == total:
            print(f"\r{done}/{total} images drawn", end="" if done < total else "\n", flush=True)


if __name__ == "__main__":
    main()
