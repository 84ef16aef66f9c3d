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

# Without an evaluation split, one of every this many images is held out.
_HELD_OUT_INTERVAL = 10


def with_data(cfg: Any, path: str, images: str | None = None) -> Any:
    """Train and evaluate a recipe on the dataset at ``path``; modifies the recipe in place.

    Classes and splits are read from the dataset. Training starts from the weights published for the recipe, including
    those of the classes that both have. Learning rates, EMA decay and warm-ups are scaled; see
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
    found, (train, test) = detect_dataset(path, images)
    name = _name_of(path)
    datasets = SimpleNamespace(train=train, test=test, num_classes=len(found.classes))
    with_datasets(cfg.dataloader, cfg.model, datasets)
    cfg.train.output_dir = f"{cfg.train.output_dir}_{name}"
    cfg.train.reference_batch_size = cfg.dataloader.train.total_batch_size
    cfg.train.reference_dataset_size = cfg.train.iterations.images
    known = any(one.data == "coco" for one in published.published_for(cfg.train.recipe))
    if known:
        cfg.train.init_checkpoint = "coco"
    logger.info(f"{path}: {found.format} format, {len(found.classes)} classes: {', '.join(found.classes)}")
    for note in found.notes:
        logger.info(f"{path}: {note}")
    if not known:
        logger.warning(
            f"No detector weights are published for {cfg.train.recipe}: training starts from the recipe's backbone "
            "weights; set train.init_checkpoint to start from another checkpoint"
        )
    return cfg


def detect_dataset(path: str, images: str | None = None) -> tuple[DiscoveredDataset, tuple[Any, Any]]:
    """Detect the format of the dataset at ``path``; see :func:`deim.data.datasets.discovery.discover`.

    Returns:
        The description of the dataset, and the config nodes of its training and evaluation splits.

    Raises:
        DatasetError: if there are no training data at ``path``.
    """
    found = discover(path, images)
    return found, _datasets(found, _name_of(path))


def _name_of(path: str) -> str:
    place = Path(path).resolve()
    return place.parent.name if place.is_file() else place.name


def _datasets(found: DiscoveredDataset, name: str) -> tuple[Any, Any]:
    """Return the config nodes of the training and evaluation splits."""
    if found.test is not None:
        return _node(found.train, f"{name}_train"), _node(found.test, f"{name}_val")
    logger.warning(
        f"The dataset has no evaluation split: one of every {_HELD_OUT_INTERVAL} images is held out for evaluation, "
        "the others are used for training"
    )
    full_name = f"{name}_all"
    parts = [
        L(holdout_split)(
            names=f"{name}_{part}",
            dataset=L(found.train.read)(
                names=full_name, **found.train.arguments, max_invalid_records="${..max_invalid_records}"
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
