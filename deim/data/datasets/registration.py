"""Registration of datasets in formats other than COCO with detectron2."""

import logging
from collections.abc import Callable
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from deim.data.datasets.keypoints import fill_missing_keypoints, select_objects_with_keypoints
from deim.data.datasets.validation import (
    DatasetContent,
    drop_annotations_without_masks,
    drop_objects_without_masks,
    validate_dataset,
)
from deim.errors import DatasetError

logger = logging.getLogger("detectron2.deim")


def register_dataset(
    name: str,
    source: str,
    read_content: Callable[[], DatasetContent],
    max_invalid_records: int = 0,
    masks: bool = False,
    keypoints: bool = False,
    min_keypoints: int = 0,
) -> list[dict]:
    """Read a dataset, validate it, register it with detectron2 under ``name``, and return its records.

    Args:
        name: name to register the dataset under.
        source: description of the data source; a name must always refer to the same source.
        read_content: function that reads the dataset.
        max_invalid_records, masks, keypoints: see :func:`deim.data.datasets.validation.validate_dataset`.
        min_keypoints: see :func:`deim.data.coco_dataset`; the registered dataset contains all objects.

    Returns:
        detectron2 records.

    Raises:
        DatasetError: if the data cannot be read, have more than ``max_invalid_records`` fatal problems, contain no
            images or no objects, or the name is registered for another source.
    """
    metadata = MetadataCatalog.get(name)
    if name in DatasetCatalog and metadata.get("source") != source:
        raise DatasetError(f"the dataset name {name!r} is already registered for another source; choose another name")
    content = read_content()
    for note in content.notes:
        logger.info(f"dataset {name!r}: {note}")
    validate_dataset(name, content, max_invalid_records, masks, keypoints)
    if masks:
        drop_annotations_without_masks(content)  # a holdout split registers the returned records
    if not content.records:
        raise DatasetError(f"dataset {name!r} ({source}) has no images")
    if not any(record["annotations"] for record in content.records):
        raise DatasetError(f"dataset {name!r} ({source}) has {len(content.records)} images but no annotations")
    if name in DatasetCatalog and content.keypoints is not None and metadata.get("keypoint_names") is None:
        DatasetCatalog.remove(name)  # its records have no keypoints
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, lambda: _read_records(read_content, masks))
        metadata.set(source=source, thing_classes=list(content.classes), evaluator_type="coco")
        if metadata.get("notes") is None:
            metadata.set(notes=content.notes)
    if content.keypoints is not None:
        metadata.set(**content.keypoints.to_metadata())
    if min_keypoints > 0:
        return select_objects_with_keypoints(content.records, min_keypoints)
    return content.records


def _read_records(read_content: Callable[[], DatasetContent], masks: bool) -> list[dict]:
    """Return the records of a dataset; with ``masks``, without the objects that have no valid mask.

    The evaluation of masks needs the mask of every object.
    """
    content = read_content()
    if masks:
        drop_objects_without_masks(content)
    if content.keypoints is not None:
        fill_missing_keypoints(content.records, content.keypoints)
    return content.records


def require_file(path: Path) -> None:
    """Raise DatasetError if ``path`` is not an existing file."""
    if not path.is_file():
        raise DatasetError(f"{path} does not exist")


def require_folder(path: Path) -> None:
    """Raise DatasetError if ``path`` is not an existing folder."""
    if not path.is_dir():
        raise DatasetError(f"the folder {path} does not exist")
