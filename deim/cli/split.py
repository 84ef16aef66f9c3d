"""Split a dataset for validation or cross-validation, keeping near-duplicate images together.

    deim split --data path/to/your/data --output split --val-share 0.2
    deim split --data path/to/your/data --output folds --folds 5

Writes COCO files that --data reads; images are neither copied nor moved. Every part gets about the same share of the
objects of each class. The training split of the dataset is split; an evaluation split stays as it is, unless
--pool adds it.
"""

import argparse
from pathlib import Path

from deim.config.user_data import detect_dataset
from deim.data.duplicates import MAX_DISTANCE
from deim.data.splitting import check_output, read_pool, split_pool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, metavar="PATH", help="dataset directory or annotation file")
    parser.add_argument("--image-root", metavar="FOLDER", help="image directory of --data; default: detected")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="directory for the COCO files")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--folds", type=int, metavar="N", help="number of folds, each used once for evaluation")
    kind.add_argument(
        "--val-share", type=float, default=0.1, metavar="SHARE", help="share of evaluation images; default: %(default)s"
    )
    parser.add_argument("--pool", action="store_true", help="also split the images of the evaluation split")
    parser.add_argument(
        "--max-distance",
        type=int,
        default=MAX_DISTANCE,
        metavar="BITS",
        help="maximum number of different bits between the perceptual hashes (256 bits) of near-duplicates; -1: ignore "
        "near-duplicates; default: %(default)s",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed for another split; default: %(default)s")


def run(args: argparse.Namespace) -> None:
    dataset, (train, test) = detect_dataset(args.data, args.image_root, None)
    full_train = train if dataset.test is not None else train.dataset  # not the part that a holdout leaves
    pool = read_pool([full_train, test] if args.pool and dataset.test is not None else [full_train])
    if args.folds is None:
        shares, names = [1 - args.val_share, args.val_share], ["train", "val"]
        held_out_parts = {args.output: 1}
    else:
        shares, names = [1 / max(args.folds, 1)] * args.folds, [f"fold{number}" for number in range(args.folds)]
        held_out_parts = {args.output / name: number for number, name in enumerate(names)}
    check_output(held_out_parts)  # before the comparison of the images, which may take minutes
    parts = split_pool(pool, shares, args.max_distance, args.seed)
    for folder, part in held_out_parts.items():
        pool.write_split(folder, parts == part)
    print(pool.summarize(parts, names))
    folder = next(iter(held_out_parts))
    print(f"train on {folder} with --data {folder} --image-root {pool.image_root}")
