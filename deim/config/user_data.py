"""A recipe on one's own data, by their path alone."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from detectron2.config import LazyCall as L

from deim.config import published
from deim.config.recipes import COCO_IMAGES, with_datasets
from deim.data.datasets.discovery import discover
from deim.data.datasets.found import Discovered, Split
from deim.data.datasets.held_out import held_out_part

logger = logging.getLogger("detectron2.deim")

# One image of so many is evaluated where the data have no split for it.
_EVERY = 10


def with_data(cfg: Any, path: str, images: str | None = None) -> Any:
    """Train and evaluate a recipe on the data set at ``path``; in place.

    Classes, splits and the number of classes are those found there, weights start from what is published for the recipe, with
    the classes that both know, and learning rates, averages and warm-ups are scaled; see
    :func:`deim.config.batch_size.scale_to_batch_size`.

    Args:
        cfg: A recipe.
        path: A folder or a file; see :func:`deim.data.datasets.discovery.discover`.
        images: The folder of the images, if they are elsewhere.

    Returns:
        The recipe.

    Raises:
        DatasetError: There is nothing to train on.
    """
    found, (train, test) = own_data(path, images)
    name = _name_of(path)
    datasets = SimpleNamespace(train=train, test=test, num_classes=len(found.classes))
    with_datasets(cfg.dataloader, cfg.model, datasets)
    cfg.train.output_dir = f"{cfg.train.output_dir}_{name}"
    cfg.train.reference_batch_size = cfg.dataloader.train.total_batch_size
    cfg.train.reference_images = COCO_IMAGES
    known = any(one.data == "coco" for one in published.of_recipe(cfg.train.recipe))
    if known:
        cfg.train.init_checkpoint = "coco"
    logger.info(f"{path} is in {found.format}'s format, of {len(found.classes)} classes: {', '.join(found.classes)}")
    for note in found.notes:
        logger.info(f"{path}: {note}")
    if not known:
        logger.warning(
            f"No detector is published for {cfg.train.recipe}: training starts from the weights that the recipe names for "
            "its backbone, unless train.init_checkpoint is set"
        )
    return cfg


def own_data(path: str, images: str | None = None) -> tuple[Discovered, tuple[Any, Any]]:
    """Recognize the data set at ``path``; see :func:`deim.data.datasets.discovery.discover`.

    Returns:
        What was found, and nodes of a config that read what is trained and what is evaluated on.

    Raises:
        DatasetError: There is nothing to train on.
    """
    found = discover(path, images)
    return found, _datasets(found, _name_of(path))


def _name_of(path: str) -> str:
    place = Path(path).resolve()
    return place.parent.name if place.is_file() else place.name


def _datasets(found: Discovered, name: str) -> tuple[Any, Any]:
    """Nodes that read the splits."""
    if found.test is not None:
        return _node(found.train, f"{name}_train"), _node(found.test, f"{name}_val")
    logger.warning(
        f"There is no split to evaluate on: one of {_EVERY} images is kept back for that, the others are trained on"
    )
    whole = f"{name}_all"
    parts = [
        L(held_out_part)(
            names=f"{name}_{part}",
            dataset=L(found.train.read)(names=whole, **found.train.arguments, problems_allowed="${..problems_allowed}"),
            whole=whole,
            every=_EVERY,
            evaluated=part == "val",
            problems_allowed=0,
        )
        for part in ("train", "val")
    ]
    return parts[0], parts[1]


def _node(split: Split, name: str) -> Any:
    return L(split.read)(names=name, **split.arguments)
