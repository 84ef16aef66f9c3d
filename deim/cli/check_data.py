"""Check a dataset before training: counts, classes, sizes, problems, sample images.

    deim check-data --data path/to/your/data --output check
    deim check-data --data path/to/your/data --to-coco path/to/annotations
    deim check-data --config-file deim_dfine/deim_dfine_s_coco --data path/to/your/data

With a config, also checks whether the model can detect as many objects per image as the dataset has, and whether
the dataset has the masks or keypoints that the model is trained on. Evaluation images that are identical or nearly
identical to training images are reported, and drawn in leaks.png. --to-coco writes the splits as
instances_train.json and instances_val.json. The exit status is 1 if the dataset cannot be trained on.
"""

import argparse
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from deim.cli.arguments import add_config
from deim.config import load_config
from deim.config.annotations import request_annotations, trained_annotations
from deim.config.loading import data_config
from deim.data.dataset_statistics import check_dataset
from deim.data.datasets.dataset_format import DiscoveredDataset
from deim.data.datasets.discovery import discover
from deim.data.datasets.names import registered_name
from deim.data.datasets.to_coco import write_coco
from deim.data.leaks import check_leaks
from deim.data.limits import DetectionLimits
from deim.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, required=False)
    parser.add_argument("--split", choices=("train", "test"), default="train", help="split to check; default: train")
    parser.add_argument("--output", default="check", help="directory for the sample images; default: %(default)s")
    parser.add_argument(
        "--skip-images",
        action="store_true",
        help="do not decode the images; unreadable images and images in both splits are then not detected",
    )
    parser.add_argument("--images", type=int, default=12, help="number of sample images to draw; default: %(default)s")
    parser.add_argument(
        "--to-coco",
        metavar="PATH",
        help="convert the dataset to COCO format: output directory, or .json file for a single split",
    )


def run(args: argparse.Namespace) -> int:
    if not args.config_file and not args.data:
        raise ConfigError("give a dataset with --data or a config with --config-file")
    if args.switches and not args.config_file:
        raise ConfigError("--with and --without change the config of a model: add --config-file")
    cfg, limits, discovered = _config(args)
    dataset = cfg.dataloader[args.split].get("dataset")
    if registered_name(dataset) is None:
        raise ConfigError(f"dataloader.{args.split}.dataset of {args.config_file} has no names")
    # Without a config, all annotations are checked, but only boxes are required.
    required = trained_annotations(cfg) if args.config_file else []
    for kind in required:
        request_annotations(cfg.dataloader, kind)
    is_trainable = check_dataset(dataset, args.output, not args.skip_images, args.images, limits, args.split, required)
    if not args.skip_images:
        _check_leaks(cfg, Path(args.output))
    if args.to_coco:
        splits = {"train": cfg.dataloader.train.dataset, "val": cfg.dataloader.test.dataset}
        if discovered is not None and discovered.test is None:
            splits = {"train": splits["train"].dataset}
        files, root = write_coco(splits, Path(args.to_coco))
        print(f"wrote {', '.join(map(str, files))}. Read them with --data {args.to_coco} --image-root {root}")
    return 0 if is_trainable else 1


def _check_leaks(cfg: Any, output: Path) -> None:
    """Report the images that occur in both splits, if the config has two."""
    train, test = (OmegaConf.select(cfg, f"dataloader.{split}.dataset") for split in ("train", "test"))
    names = [registered_name(dataset) for dataset in (train, test)]
    if None not in names and names[0] != names[1]:
        check_leaks(train, test, output)


def _config(args: argparse.Namespace) -> tuple[Any, DetectionLimits | None, DiscoveredDataset | None]:
    """Return the config, the limits of its model (if any) and the dataset found at ``--data``; print the latter."""
    limits, discovered = None, None
    if args.config_file:
        cfg = load_config(args.config_file, args.opts, args.data, args.image_root, dict(args.switches))
        limits = DetectionLimits.from_config(cfg)
        discovered = discover(args.data, args.image_root) if args.data else None
    else:
        cfg, discovered = data_config(args.opts, args.data, args.image_root)
    if discovered is not None:
        _print_discovered(args.data, discovered)
    return cfg, limits, discovered


def _print_discovered(path: str, discovered: DiscoveredDataset) -> None:
    print(f"{path}: {discovered.format}, {len(discovered.classes)} classes")
    for name, split in (("train", discovered.train), ("test", discovered.test)):
        if split is not None:
            arguments = [f"{key}={value}" for key, value in split.arguments.items() if key not in _HIDDEN_ARGUMENTS]
            print(f"{name}: {split.read.__name__}({', '.join(arguments)})")
        else:
            print(f"{name}: 10% of the training images are held out")
    for note in discovered.notes:
        print(f"note: {note}")


_HIDDEN_ARGUMENTS = ("class_names", "label_names")
