"""COCO-format data sets, registered by path."""

import json
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets import register_coco_instances

from deim.data.datasets.checks import Content, require_sound
from deim.errors import DatasetError


def register_coco(name: str, json_file: str, image_root: str) -> None:
    """Register a COCO-format data set with detectron2; again with the same paths, nothing happens.

    Args:
        name: what it is called from now on; other paths need another name.
        json_file: an ``instances_*.json``; category ids need not be contiguous.
        image_root: folder of the images.

    Raises:
        DatasetError: the file or the folder does not exist, or the name stands for other paths.
    """
    _require(json_file, image_root)
    if name not in DatasetCatalog:
        register_coco_instances(name, {}, str(json_file), str(image_root))
        return
    metadata = MetadataCatalog.get(name)
    registered = (metadata.get("json_file"), metadata.get("image_root"))
    if registered != (str(json_file), str(image_root)):
        raise DatasetError(
            f"the data set name {name!r} is already registered for {registered[0]} and {registered[1]}; "
            "choose another name"
        )


def coco_dataset(
    name: str, json_file: str | None = None, image_root: str | None = None, filter_empty: bool = False
) -> list[dict]:
    """The records of a data set, which is registered first if paths are given.

    Args:
        name: of a registered data set, or of the one to register.
        filter_empty: leave out images without objects; DEIM and D-FINE keep them.

    Returns:
        detectron2 records.

    Raises:
        DatasetError: it is not registered, files are missing or malformed, or it has no images or,
            with annotations in the file, none of them has any.
    """
    if (json_file is None) != (image_root is None):
        raise DatasetError(f"data set {name!r}: give both json_file and image_root, or neither")
    if json_file is not None and image_root is not None:
        register_coco(name, json_file, image_root)
    if name not in DatasetCatalog:
        raise DatasetError(
            f"the data set {name!r} is not registered. Known are: {', '.join(DatasetCatalog.keys())}. "
            "Name one of them, or give the paths of yours with dataset.json_file=... dataset.image_root=..."
        )
    metadata = MetadataCatalog.get(name)
    source = metadata.get("json_file")
    if source is not None:
        _require(source, metadata.get("image_root"))
    try:
        records = get_detection_dataset_dicts(name, filter_empty=False, check_consistency=False)
    except Exception as error:  # what readers raise for malformed files is of many kinds
        reason = None if source is None else _what_is_wrong(source)
        raise DatasetError(f"data set {name!r} ({source}): {reason or error}") from error
    if filter_empty:
        records = [r for r in records if any(not a.get("iscrowd", 0) for a in r["annotations"])]
    if not any(r.get("annotations") for r in records):
        raise DatasetError(f"data set {name!r} ({source}) has {len(records)} images, but no annotations at all")
    require_sound(name, Content(records, metadata.thing_classes, []))
    return records


def _require(json_file: str, image_root: str | None) -> None:
    if not Path(json_file).is_file():
        raise DatasetError(f"annotation file {json_file} does not exist (set dataset.json_file)")
    if image_root is not None and not Path(image_root).is_dir():
        raise DatasetError(f"image folder {image_root} does not exist (set dataset.image_root)")


def _what_is_wrong(json_file: str) -> str | None:
    """Why a file cannot be read as COCO annotations, where that can be told in general."""
    try:
        content = json.loads(Path(json_file).read_bytes())
    except ValueError as error:
        return f"not valid JSON: {error}"
    lists = ("images", "annotations", "categories")
    missing = [key for key in lists if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        return f"not in COCO format: there is no list named {' and '.join(missing)}"
    empty = [key for key in ("categories", "images") if not content[key]]
    if empty:
        return f"it lists no {' and no '.join(empty)}"
    known = {category["id"] for category in content["categories"]}
    stray = [a for a in content["annotations"] if a.get("category_id") not in known]
    if not stray:
        return None
    first = stray[0]
    return (
        f"{len(stray)} annotations have a category_id that 'categories' does not list, the first: "
        f"id {first.get('id')} of image {first.get('image_id')} with category_id {first.get('category_id')}"
    )
