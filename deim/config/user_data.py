"""Recipes on a user's dataset, given by its path."""

import inspect
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from detectron2.config import LazyCall as L

from deim.config import published
from deim.config.annotations import fit_keypoints, trained_annotations
from deim.config.batch_size import AUTO
from deim.config.building import selected_backbone_weights
from deim.config.recipes import with_datasets
from deim.data.datasets.dataset_format import DiscoveredDataset, Split
from deim.data.datasets.discovery import discover
from deim.data.datasets.holdout import holdout_split
from deim.errors import ConfigError, DatasetError

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
        ConfigError: if the batch size of the recipe is "auto".
        DatasetError: if there are no training data at ``path``, or the recipe trains on masks or keypoints, and the
            format has none.
    """
    annotations = trained_annotations(cfg)
    dataset, (train, test) = detect_dataset(path, images, annotations)
    min_keypoints = cfg.dataloader.train.dataset.get("min_keypoints", 0)
    if min_keypoints and "keypoints" in annotations:
        train.min_keypoints = min_keypoints
    name = _dataset_name(path)
    datasets = SimpleNamespace(train=train, test=test, num_classes=len(dataset.classes))
    with_datasets(cfg.dataloader, cfg.model, datasets)
    if dataset.keypoints is not None:
        fit_keypoints(cfg, dataset.keypoints)
    cfg.train.output_dir = f"{cfg.train.output_dir}_{name}"
    if cfg.dataloader.train.total_batch_size == AUTO:
        raise ConfigError(
            f"the config file sets dataloader.train.total_batch_size={AUTO}, so the batch size that its learning rates hold "
            f"for is unknown: set it on the command line instead, dataloader.train.total_batch_size={AUTO}"
        )
    cfg.train.reference_batch_size = cfg.dataloader.train.total_batch_size
    cfg.train.reference_dataset_size = cfg.train.iterations.images
    has_weights = any(weights.data == "coco" for weights in published.initial_weights_for(cfg.train.recipe))
    if has_weights:
        cfg.train.init_checkpoint = "coco"
    logger.info(f"{path}: {dataset.format} format, {len(dataset.classes)} classes: {', '.join(dataset.classes)}")
    for note in dataset.notes:
        logger.info(f"{path}: {note}")
    if not has_weights:
        has_backbone_weights = selected_backbone_weights(cfg) is not None
        start = cfg.train.init_checkpoint or (
            "the recipe's backbone weights" if has_backbone_weights else "random weights"
        )
        logger.warning(
            f"No detector weights are published for {cfg.train.recipe}: training starts from {start}; set "
            "train.init_checkpoint to start from another checkpoint"
        )
    return cfg


def detect_dataset(
    path: str, images: str | None = None, annotations: Sequence[str] | None = ()
) -> tuple[DiscoveredDataset, tuple[Any, Any]]:
    """Detect the format of the dataset at ``path``; see :func:`deim.data.datasets.discovery.discover`.

    Args:
        path: a directory or a file.
        images: folder of the images, if they are stored elsewhere.
        annotations: annotations to read beside boxes: "masks", "keypoints". None reads keypoints if there are any.

    Returns:
        The description of the dataset, and the config nodes of its training and evaluation splits.

    Raises:
        DatasetError: if there are no training data at ``path``, or the format has no ``annotations``.
    """
    dataset = discover(path, images)
    if annotations is None:
        annotations = () if dataset.keypoints is None else ("keypoints",)
    dataset = _with_annotations(dataset, path, annotations)
    return dataset, _dataset_nodes(dataset, _dataset_name(path), dict.fromkeys(annotations, True))


def evaluation_node(path: str, name: str, annotations: Sequence[str]) -> Any:
    """Return the config node of the evaluation split of the dataset at ``path``, or of its only split.

    Args:
        path: see :func:`detect_dataset`.
        name: suffix of the name to register the split under.
        annotations: annotations to read beside boxes: "masks", "keypoints".

    Raises:
        DatasetError: if there is no dataset at ``path``, or the format has no ``annotations``.
    """
    dataset = _with_annotations(discover(path), path, annotations)
    return _node(dataset.test or dataset.train, f"{_dataset_name(path)}_{name}", dict.fromkeys(annotations, True))


def _with_annotations(dataset: DiscoveredDataset, path: str, annotations: Sequence[str]) -> DiscoveredDataset:
    """Return the dataset whose splits have masks or keypoints.

    Raises:
        DatasetError: if the format has none.
    """
    if annotations:
        test = None if dataset.test is None else dataset.test.annotated or dataset.test
        dataset = replace(dataset, train=dataset.train.annotated or dataset.train, test=test)
    for kind in annotations:
        for split in (dataset.train, dataset.test):
            if split is not None and kind not in inspect.signature(split.read).parameters:
                raise DatasetError(
                    f"{path} is in {dataset.format} format, from which {kind} cannot be read. {_FORMATS_WITH[kind]}"
                )
    return dataset


_FORMATS_WITH = {
    "masks": "Formats with masks: COCO, YOLO with polygons, labelme, CVAT for images, Supervisely, VIA",
    "keypoints": "Formats with keypoints: COCO, YOLO with kpt_shape in data.yaml",
}


def _dataset_name(path: str) -> str:
    absolute = Path(path).resolve()
    return absolute.parent.name if absolute.is_file() else absolute.name


def _dataset_nodes(dataset: DiscoveredDataset, name: str, annotations: dict[str, bool]) -> tuple[Any, Any]:
    """Return the config nodes of the training and evaluation splits; readers get ``annotations`` as arguments."""
    if dataset.test is not None:
        return (
            _node(dataset.train, f"{name}_train", annotations),
            _node(dataset.test, f"{name}_val", annotations),
        )
    logger.warning(
        f"The dataset has no evaluation split: one of every {_HELD_OUT_INTERVAL} images is held out for evaluation, "
        "the others are used for training"
    )
    full_name = f"{name}_all"
    parts = [
        L(holdout_split)(
            names=f"{name}_{part}",
            dataset=L(dataset.train.read)(
                names=full_name,
                **dataset.train.arguments,
                **annotations,
                max_invalid_records="${..max_invalid_records}",
            ),
            full_name=full_name,
            every_nth=_HELD_OUT_INTERVAL,
            held_out=part == "val",
            max_invalid_records=0,
        )
        for part in ("train", "val")
    ]
    return parts[0], parts[1]


def _node(split: Split, name: str, annotations: dict[str, bool]) -> Any:
    return L(split.read)(names=name, **split.arguments, **annotations)
