"""COCO-format annotation files as detectron2 records."""

import contextlib
import io
import json
import logging
import os

from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import file_lock
from pycocotools.coco import COCO

__all__ = ["convert_to_coco_json", "load_coco_json", "register_coco_instances"]

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
    listed = [annotation["id"] for image_id in api.imgs for annotation in api.imgToAnns[image_id]]
    if len(listed) < len(api.anns):
        logger.warning(f"{json_file}: only {len(listed)} of the {len(api.anns)} annotations are of images in it.")
    if "minival" not in json_file and len(set(listed)) != len(listed):
        raise AssertionError(f"Annotation ids in '{json_file}' are not unique!")
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


def convert_to_coco_json(dataset_name, output_file, allow_cached=True):
    """Write a registered data set as a COCO-format annotation file, unless it is there already.

    Args:
        allow_cached: keep a file that is there; else write it anew.
    """
    PathManager.mkdirs(os.path.dirname(output_file))
    with file_lock(output_file):
        if PathManager.exists(output_file) and allow_cached:
            logger.warning(f"Using previously cached COCO format annotations at '{output_file}'.")
            return
        content = _as_coco(DatasetCatalog.get(dataset_name), MetadataCatalog.get(dataset_name))
        with PathManager.open(output_file + ".tmp", "w") as f:
            json.dump(content, f)
        os.replace(output_file + ".tmp", output_file)


def _as_coco(records, metadata):
    to_dataset = {index: i for i, index in metadata.get("thing_dataset_id_to_contiguous_id", {}).items()}
    images, annotations = [], []
    for number, record in enumerate(records):
        image_id = record.get("image_id", number)
        images.append(
            {
                "id": image_id,
                "width": int(record["width"]),
                "height": int(record["height"]),
                "file_name": str(record["file_name"]),
            }
        )
        for instance in record.get("annotations", []):
            box = BoxMode.convert(list(instance["bbox"]), instance["bbox_mode"], BoxMode.XYWH_ABS)
            index = instance["category_id"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "bbox": [round(float(value), 3) for value in box],
                    "area": float(box[2] * box[3]),
                    "iscrowd": int(instance.get("iscrowd", 0)),
                    "category_id": int(to_dataset.get(index, index)),
                }
            )
    categories = [{"id": to_dataset.get(i, i), "name": name} for i, name in enumerate(metadata.thing_classes)]
    return {"images": images, "annotations": annotations, "categories": categories}
