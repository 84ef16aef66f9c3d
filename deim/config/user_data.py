"""Recipes on a user's dataset, given by its path."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from detectron2.config import LazyCall as L

from deim.config import published
from deim.config.recipes import with_datasets
from deim.data.datasets.dataset_format import DiscoveredDataset, Split
from deim.data.datasets.discovery import discover
from deim.data.datasets.holdout import holdout_split

logger = logging.getLogger("detectron2.deim")

# Without an evaluation split, one image in each group of this size is held out.
_HELD_OUT_INTERVAL = 10


def with_data(cfg: Any, path: str, images: str | None = None) -> Any:
    """Train and evaluate a recipe on the dataset at ``path``; modifies the recipe in place.

    Classes and splits are read from the dataset. Training starts from the weights published for the recipe; classes
    that these weights also have keep their classification weights. Learning rates, EMA decay and warm-ups are scaled; see
    :func:`deim.config.batch_size.scale_to_batch_size`.

    Args:
        cfg: a recipe.
        path: a directory or a file; see :func:`deim.data.datasets.discovery.discover`.
        images: folder of the images, if they are stored elsewhere.

    Returns:
        ``cfg``.

    Raises:
        DatasetError: if there are no training data at ``path``.
    """
    dataset, (train, test) = detect_dataset(path, images)
    name = _dataset_name(path)
    datasets = SimpleNamespace(train=train, test=test, num_classes=len(dataset.classes))
    with_datasets(cfg.dataloader, cfg.model, datasets)
    cfg.train.output_dir = f"{cfg.train.output_dir}_{name}"
    cfg.train.reference_batch_size = cfg.dataloader.train.total_batch_size
    cfg.train.reference_dataset_size = cfg.train.iterations.images
    has_weights = any(weights.data == "coco" for weights in published.published_for(cfg.train.recipe))
    if has_weights:
        cfg.train.init_checkpoint = "coco"
    logger.info(f"{path}: {dataset.format} format, {len(dataset.classes)} classes: {', '.join(dataset.classes)}")
    for note in dataset.notes:
        logger.info(f"{path}: {note}")
    if not has_weights:
        start = cfg.train.init_checkpoint or "the recipe's backbone weights"
        logger.warning(
            f"No detector weights are published for {cfg.train.recipe}: training starts from {start}; set "
            "train.init_checkpoint to start from another checkpoint"
        )
    return cfg


def detect_dataset(path: str, images: str | None = None) -> tuple[DiscoveredDataset, tuple[Any, Any]]:
    """Detect the format of the dataset at ``path``; see :func:`deim.data.datasets.discovery.discover`.

    Returns:
        The description of the dataset, and the config nodes of its training and evaluation splits.

    Raises:
        DatasetError: if there are no training data at ``path``.
    """
    dataset = discover(path, images)
    return dataset, _dataset_nodes(dataset, _dataset_name(path))


def _dataset_name(path: str) -> str:
    absolute = Path(path).resolve()
    return absolute.parent.name if absolute.is_file() else absolute.name


def _dataset_nodes(dataset: DiscoveredDataset, name: str) -> tuple[Any, Any]:
    """Return the config nodes of the training and evaluation splits."""
    if dataset.test is not None:
        return _node(dataset.train, f"{name}_train"), _node(dataset.test, f"{name}_val")
    logger.warning(
        f"The dataset has no evaluation split: one of every {_HELD_OUT_INTERVAL} images is held out for evaluation, "
        "the others are used for training"
    )
    full_name = f"{name}_all"
    parts = [
        L(holdout_split)(
            names=f"{name}_{part}",
            dataset=L(dataset.train.read)(
                names=full_name, **dataset.train.arguments, max_invalid_records="${..max_invalid_records}"
            ),
            full_name=full_name,
            every_nth=_HELD_OUT_INTERVAL,
            held_out=part == "val",
            max_invalid_records=0,
        )
        for part in ("train", "val")
    ]
    return parts[0], parts[1]


def _node(split: Split, name: str) -> Any:
    return L(split.read)(names=name, **split.arguments)
