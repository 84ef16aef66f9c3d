"""Data, detections and mistakes for FiftyOne."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog

from deim.analysis import ImageResult
from deim.config import build, load_config
from deim.config.loading import data_config
from deim.conversion.hub_folder import find_checkpoint
from deim.data.datasets.keypoints import KeypointDefinition, keypoints_from_metadata
from deim.data.datasets.names import registered_name
from deim.data.drawing import object_shapes
from deim.data.records import annotation_arrays, annotation_boxes
from deim.engine.evaluation import required_classes
from deim.engine.preflight import resolve_device
from deim.errors import ConfigError
from deim.reporting.evaluated_run import evaluate_run
from deim.reporting.fiftyone_dataset import FiftyoneImage, write_fiftyone
from deim.structures.skeleton import Skeleton


def write_view(
    source: str,
    out: Path,
    *,
    weights: str | None = None,
    threshold: float = 0.3,
    image_root: str | None = None,
    overrides: Sequence[str] = (),
) -> tuple[str, int]:
    """Write the images of a dataset, or the test images of a run with its detections, in FiftyOne's format.

    Args:
        source: folder of a run, or a dataset as for ``--data``.
        out: the folder to write.
        weights: checkpoint of a run; default: the best or else the final one.
        threshold: minimum score of detections.
        image_root: image folder of a dataset.
        overrides: ``key=value`` overrides of the config.

    Returns:
        the name of the dataset, and its number of images.

    Raises:
        DeimError: if the source is neither a run nor a dataset, or cannot be read.
    """
    config_file = Path(source) / "config.yaml"
    if config_file.is_file():
        cfg = load_config(str(config_file), overrides)
        cfg.train.init_checkpoint = weights or find_checkpoint(source)
        (images, skeleton), classes = _run_images(cfg, threshold), required_classes(cfg, "test")
    else:
        cfg, _ = data_config(overrides, source, image_root)
        (images, skeleton), classes = _dataset_images(cfg), required_classes(cfg, "train")
    name = f"{Path(source).resolve().name}-deim"
    write_fiftyone(out, name, images, classes, skeleton)
    return name, len(images)


def _run_images(cfg: Any, threshold: float) -> tuple[list[FiftyoneImage], Skeleton | None]:
    resolve_device(cfg)
    records = {record["file_name"]: record for record in build(cfg, "dataloader.test.dataset")}
    evaluated = evaluate_run(cfg)
    name = registered_name(cfg.dataloader.test.dataset) or "test"
    images = [
        FiftyoneImage(result.filter_by_score(threshold), _size(records[result.file_name]), [name], True)
        for result in evaluated.results
    ]
    return images, evaluated.skeleton


def _dataset_images(cfg: Any) -> tuple[list[FiftyoneImage], Skeleton | None]:
    images = []
    for split in ("train", "test"):
        records = build(cfg, f"dataloader.{split}.dataset")
        name = registered_name(cfg.dataloader[split].dataset)
        definition = None if name is None else keypoints_from_metadata(MetadataCatalog.get(name))
        images += [FiftyoneImage(_ground_truth(record, definition), _size(record), [split]) for record in records]
    skeleton = None if definition is None else Skeleton(definition.names, tuple(definition.connected_indices()))
    return images, skeleton


def _ground_truth(record: dict[str, Any], definition: KeypointDefinition | None) -> ImageResult:
    crowds = [annotation for annotation in record.get("annotations", ()) if annotation.get("iscrowd", 0)]
    boxes, classes = annotation_arrays(record)
    crowd_classes = np.array([annotation["category_id"] for annotation in crowds], dtype=np.int64)
    masks, keypoints = object_shapes(record, definition)
    none, no_boxes = np.zeros(0), np.zeros((0, 4))
    return ImageResult(
        record["file_name"],
        boxes,
        classes,
        annotation_boxes(crowds),
        crowd_classes,
        no_boxes,
        none,
        none.astype(int),
        gt_masks=masks,
        gt_keypoints=keypoints,
    )


def _size(record: dict[str, Any]) -> tuple[int, int]:
    return record["height"], record["width"]


def open_fiftyone(folder: Path, name: str) -> None:
    """Load a written dataset into FiftyOne, and show it in the app until the app is closed.

    A dataset of this name is replaced.

    Raises:
        ConfigError: if FiftyOne is not installed, or its database does not start.
    """
    try:
        import fiftyone
    except ImportError as error:
        raise ConfigError(
            "deim view needs the package fiftyone: pip install 'deim[fiftyone]'. --to fiftyone DIR writes the dataset "
            "without it"
        ) from error
    try:
        dataset = fiftyone.Dataset.from_dir(
            dataset_dir=str(folder), dataset_type=fiftyone.types.FiftyOneDataset, name=name, overwrite=True
        )
        session = fiftyone.launch_app(dataset)
    except (ConnectionError, fiftyone.core.config.FiftyOneConfigError) as error:
        raise ConfigError(
            f"the database of FiftyOne does not start: {error}. --to fiftyone DIR writes the dataset without it"
        ) from error
    session.wait()
