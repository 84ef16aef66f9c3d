"""COCO-format annotation files as detectron2 records."""

import contextlib
import io
import logging
import os

from pycocotools.coco import COCO

from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

__all__ = ["load_coco_json", "register_coco_instances"]

logger = logging.getLogger(__name__)


def load_coco_json(json_file, image_root, dataset_name=None, extra_annotation_keys=None):
    """Read an ``instances_*.json``.

    Category ids become contiguous, in the order of the ids in the file; with ``dataset_name`` the
    mapping and the class names go to its metadata.

    Returns:
        one record per image, in the order of image ids: ``file_name``, ``height``, ``width``,
        ``image_id`` and ``annotations``, each of these with ``bbox``, ``bbox_mode``
        (XYWH_ABS), ``category_id`` and ``iscrowd``.

    Raises:
        KeyError: an annotation names a category that the file does not list.
        ValueError: an annotation has an empty ``bbox``.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO(PathManager.get_local_path(json_file))
    category_ids = sorted(api.getCatIds())
    contiguous = {category: index for index, category in enumerate(category_ids)}
    if dataset_name is not None:
        metadata = MetadataCatalog.get(dataset_name)
        metadata.thing_classes = [c["name"] for c in api.loadCats(category_ids)]
        if category_ids != list(range(1, len(category_ids) + 1)) and "coco" not in dataset_name:
            logger.warning(
                "\nCategory ids in annotations are not in [1, #categories]! We'll apply a mapping for you.\n"
            )
        metadata.thing_dataset_id_to_contiguous_id = contiguous

    kept = ["iscrowd", "bbox", "keypoints", "category_id", *(extra_annotation_keys or [])]
    records = []
    for image_id in sorted(api.imgs):
        image = api.imgs[image_id]
        record = {
            "file_name": os.path.join(image_root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image_id,
            "annotations": [],
        }
        for annotation in api.imgToAnns[image_id]:
            instance = {key: annotation[key] for key in kept if key in annotation}
            if "bbox" in instance and len(instance["bbox"]) == 0:
                raise ValueError(f"{json_file}: one annotation of image {image_id} contains an empty 'bbox' value")
            instance["bbox_mode"] = BoxMode.XYWH_ABS
            if dataset_name is not None:
                if instance["category_id"] not in contiguous:
                    raise KeyError(
                        f"{json_file}: an annotation of image {image_id} has category_id="
                        f"{instance['category_id']}, which does not exist in the 'categories' field"
                    )
                instance["category_id"] = contiguous[instance["category_id"]]
            record["annotations"].append(instance)
        records.append(record)
    logger.info(f"Loaded {len(records)} images in COCO format from {json_file}")
    return records


def register_coco_instances(name, metadata, json_file, image_root):
    """Register the data set ``name``: read lazily from ``json_file``, images under ``image_root``."""
    DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata)
