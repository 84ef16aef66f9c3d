"""Conversion of datasets to COCO files."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode
from pycocotools import mask as coco_masks

from deim.data.datasets.keypoints import (
    FLIP_PAIRS_KEY,
    KeypointDefinition,
    find_flip_pairs,
    keypoints_from_metadata,
)
from deim.data.datasets.regions import polygon_area
from deim.errors import DatasetError


def write_coco(splits: Mapping[str, Any], target: Path) -> tuple[list[Path], Path]:
    """Write datasets as COCO files.

    Boxes are neither clipped nor rounded, and polygons and masks are written unchanged. Keypoints are written if the
    readers read them. Ids count from 1 in record order, so the same dataset always gives the same file.

    Args:
        splits: config nodes that read the records, by split name.
        target: a folder for ``instances_<split>.json`` files, or a ``.json`` file for a single split.

    Returns:
        the written files, and the folder that image names are relative to: the deepest one that contains all images.

    Raises:
        DatasetError: if a dataset cannot be read, ``target`` is one file for several splits, or a file exists.
    """
    if target.suffix.lower() == ".json" and len(splits) > 1:
        raise DatasetError(f"{target} is a single file for several splits ({', '.join(splits)}); pass a folder instead")
    datasets = {name: (instantiate(node), MetadataCatalog.get(node["names"])) for name, node in splits.items()}
    root = common_folder([record["file_name"] for records, _ in datasets.values() for record in records])
    is_file = target.suffix.lower() == ".json"
    written = [target if is_file else target / f"instances_{name}.json" for name in datasets]
    for file in written:
        if file.exists():
            raise DatasetError(f"{file} exists, and may be an original: choose another place, or delete it")
    for file, (records, metadata) in zip(written, datasets.values(), strict=True):
        write_coco_file(file, records, metadata.thing_classes, root, keypoints_from_metadata(metadata))
    return written, root


def write_coco_file(
    file: Path, records: Sequence[dict], classes: Sequence[str], root: Path, keypoints: KeypointDefinition | None
) -> None:
    """Write detectron2 records as a COCO file.

    Args:
        file: path of the file; missing folders are created.
        records: detectron2 records.
        classes: class names in index order.
        root: folder that contains all images; their names in the file are relative to it.
        keypoints: names and connections of the keypoints; None if the records have none.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(_coco_content(records, classes, root, keypoints)), encoding="utf-8")


def common_folder(paths: Sequence[str]) -> Path:
    """Return the deepest folder that contains all files at ``paths``.

    Raises:
        DatasetError: if there is none, such as for files on different drives.
    """
    folders = {os.path.abspath(os.path.dirname(path)) for path in paths}
    try:
        return Path(os.path.commonpath(folders))
    except ValueError as error:
        raise DatasetError(f"the images have no common parent folder: {error}") from error


def _coco_content(
    records: Sequence[dict], classes: Sequence[str], root: Path, keypoints: KeypointDefinition | None
) -> dict[str, list[dict]]:
    images, annotations = [], []
    for number, record in enumerate(records, 1):
        path = Path(os.path.abspath(record["file_name"])).relative_to(root).as_posix()
        images.append({"id": number, "file_name": path, "width": int(record["width"]), "height": int(record["height"])})
        annotations += [
            _annotation(annotation, number) | ({} if keypoints is None else _keypoint_entries(annotation, keypoints))
            for annotation in record["annotations"]
        ]
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    definition = {} if keypoints is None else _keypoint_definition(keypoints)
    categories = [{"id": number, "name": name} | definition for number, name in enumerate(classes, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _annotation(annotation: Mapping[str, Any], image_id: int) -> dict[str, Any]:
    x, y, width, height = BoxMode.convert(
        [float(value) for value in annotation["bbox"]], annotation["bbox_mode"], BoxMode.XYWH_ABS
    )
    segmentation = annotation.get("segmentation") or []
    return {
        "image_id": image_id,
        "category_id": int(annotation["category_id"]) + 1,
        "bbox": [x, y, width, height],
        "area": _area(segmentation) or width * height,
        "iscrowd": int(annotation.get("iscrowd", 0)),
        "segmentation": _as_json(segmentation),
    }


def _keypoint_definition(keypoints: KeypointDefinition) -> dict[str, Any]:
    """Return the entries of a category. The skeleton counts keypoints from 1, and so do the flip pairs, which are written if
    the names do not imply them."""
    skeleton, flip_pairs = (
        [[keypoints.names.index(name) + 1 for name in pair] for pair in pairs]
        for pairs in (keypoints.connections, keypoints.flip_pairs)
    )
    definition = {"keypoints": list(keypoints.names), "skeleton": skeleton}
    if set(keypoints.flip_pairs) != set(find_flip_pairs(keypoints.names)):
        definition[FLIP_PAIRS_KEY] = flip_pairs
    return definition


def _keypoint_entries(annotation: Mapping[str, Any], keypoints: KeypointDefinition) -> dict[str, Any]:
    """Return the keypoints of an annotation as COCO's pixel indices: 0 is the center of the first pixel."""
    values = [float(value) for value in annotation.get("keypoints") or [0] * keypoints.values_per_object]
    visible = values[2::3]
    shifted = [
        int(value) if index % 3 == 2 else value - 0.5 if visible[index // 3] else 0.0
        for index, value in enumerate(values)
    ]
    return {"keypoints": shifted, "num_keypoints": sum(value > 0 for value in visible)}


def _area(segmentation: Any) -> float:
    """Return the summed area of polygons or the area of a mask; 0 without segmentation."""
    if isinstance(segmentation, dict):
        is_uncompressed = isinstance(segmentation["counts"], list)
        mask = coco_masks.frPyObjects(segmentation, *segmentation["size"]) if is_uncompressed else segmentation
        return float(coco_masks.area(mask))
    return sum((polygon_area(np.reshape(points, (-1, 2))) for points in segmentation), 0.0)


def _as_json(segmentation: Any) -> Any:
    """Convert the counts of a run-length encoding to text; return polygons unchanged."""
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], bytes):
        return {"size": list(segmentation["size"]), "counts": segmentation["counts"].decode()}
    return segmentation
