"""Reading of COCO annotation files into detectron2's dataset records."""

import contextlib
import io
import logging
import os
from typing import Any

from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from pycocotools import mask as rle
from pycocotools.coco import COCO

from ._coco_export import convert_to_coco_json

__all__ = ["convert_to_coco_json", "load_coco_json", "register_coco_instances"]

logger = logging.getLogger(__name__)


def load_coco_json(json_file, image_root, dataset_name=None, extra_annotation_keys=None):
    """Read an annotation file in COCO format.

    Args:
        json_file: path of the file.
        image_root: folder of the images.
        dataset_name: if given, class indices are contiguous, in the order of the category ids. The class names and the
            map from category ids to indices are added to the metadata of this dataset.
        extra_annotation_keys: additional keys of annotations to keep.

    Returns:
        One record per image, in the order of the image ids, with ``file_name``, ``height``, ``width``, ``image_id`` and
        ``annotations``. Each annotation has ``bbox``, ``bbox_mode`` (XYWH_ABS), ``category_id``, ``iscrowd`` and, where
        the file has them, ``segmentation`` and ``keypoints`` (shifted by half a pixel to pixel centers).

    Raises:
        AssertionError: if annotation ids are not unique, or an annotation has a nonzero "ignore".
        KeyError: if an annotation has a category that the file does not list.
        ValueError: if an annotation has an empty ``bbox``.
    """
    json_file = PathManager.get_local_path(json_file)
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO(json_file)
    index_of = None if dataset_name is None else _learn_classes(api, dataset_name)
    image_ids = sorted(api.imgs)
    _check_annotations(api, image_ids, json_file)
    logger.info(f"Loaded {len(image_ids)} images in COCO format from {json_file}")

    keys = ["iscrowd", "bbox", "keypoints", "category_id", *(extra_annotation_keys or [])]
    records, skipped = [], 0
    for image_id in image_ids:
        image = api.imgs[image_id]
        annotations = [
            _read_annotation(a, keys, index_of, f"{json_file}, image {image_id}") for a in api.imgToAnns[image_id]
        ]
        skipped += annotations.count(None)
        record = {
            "file_name": os.path.join(image_root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image_id,
            "annotations": [annotation for annotation in annotations if annotation is not None],
        }
        records.append(record)
    if skipped:
        logger.warning(f"{json_file}: filtered out {skipped} instances without valid segmentation.")
    return records


def _learn_classes(api: COCO, dataset_name: str) -> dict[int, int]:
    """Add the classes of a file to the metadata, and return {category id: class index}."""
    category_ids = sorted(api.getCatIds())
    metadata = MetadataCatalog.get(dataset_name)
    metadata.thing_classes = [category["name"] for category in api.loadCats(category_ids)]
    is_contiguous = (min(category_ids), max(category_ids)) == (1, len(category_ids))
    if not is_contiguous and "coco" not in dataset_name:
        logger.warning("\nCategory ids in annotations are not in [1, #categories]! We'll apply a mapping for you.\n")
    metadata.thing_dataset_id_to_contiguous_id = {category: index for index, category in enumerate(category_ids)}
    return metadata.thing_dataset_id_to_contiguous_id


def _check_annotations(api: COCO, image_ids: list, json_file: str) -> None:
    annotation_ids = [annotation["id"] for image_id in image_ids for annotation in api.imgToAnns[image_id]]
    if len(annotation_ids) < len(api.anns):
        logger.warning(
            f"{json_file} contains {len(api.anns)} annotations, but only {len(annotation_ids)} of them match to images in the file."
        )
    # COCO's "minival" files contain duplicate ids.
    if "minival" not in json_file and len(set(annotation_ids)) != len(annotation_ids):
        raise AssertionError(f"Annotation ids in '{json_file}' are not unique!")


def _read_annotation(annotation: dict, keys: list[str], index_of: dict[int, int] | None, where: str) -> dict | None:
    """Return an annotation in detectron2's format, or None if its segmentation is not valid.

    Args:
        keys: keys to keep.
        index_of: {category id: class index}, or None to keep the ids.
        where: file and image, for error messages.
    """
    if annotation.get("ignore", 0) != 0:
        raise AssertionError(f'{where}: "ignore" in COCO json file is not supported.')
    instance: dict[str, Any] = {key: annotation[key] for key in keys if key in annotation}
    if "bbox" in instance and len(instance["bbox"]) == 0:
        raise ValueError(f"{where}: an annotation contains an empty 'bbox' value! This is not valid COCO format.")
    if annotation.get("segmentation"):
        segmentation = _read_segmentation(annotation["segmentation"])
        if not segmentation:
            return None
        instance["segmentation"] = segmentation
    if instance.get("keypoints"):
        # COCO keypoints are pixel indices; the center of pixel 0 is at 0.5.
        instance["keypoints"] = [v if i % 3 == 2 else v + 0.5 for i, v in enumerate(instance["keypoints"])]
    instance["bbox_mode"] = BoxMode.XYWH_ABS
    if index_of:
        if instance["category_id"] not in index_of:
            raise KeyError(
                f"{where}: category_id={instance['category_id']} does not exist in 'categories' of the file."
            )
        instance["category_id"] = index_of[instance["category_id"]]
    return instance


def _read_segmentation(segmentation: list | dict) -> list | dict:
    """Return the polygons with at least three points, or a compressed run-length encoding."""
    if not isinstance(segmentation, dict):
        return [polygon for polygon in segmentation if len(polygon) % 2 == 0 and len(polygon) >= 6]
    if isinstance(segmentation["counts"], list):
        return rle.frPyObjects(segmentation, *segmentation["size"])
    return segmentation


def register_coco_instances(name, metadata, json_file, image_root):
    """Register a dataset in COCO format. The file is read when the dataset is used.

    Args:
        name: name of the dataset.
        metadata: further metadata.
        json_file: path of the annotation file.
        image_root: folder of the images.

    Raises:
        AssertionError: if a name or path has the wrong type, or metadata differ from existing metadata of the dataset.
    """
    if not isinstance(name, str):
        raise AssertionError(f"The name of a dataset must be a string, got {name!r}")
    for path in (json_file, image_root):
        if not isinstance(path, (str, os.PathLike)):
            raise AssertionError(f"Dataset {name}: expected a path, got {path!r}")
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata)
