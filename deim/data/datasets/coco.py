"""COCO-format data sets, registered by path."""

import json
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets import register_coco_instances
from detectron2.utils.file_io import PathManager

from deim.data.datasets.checks import Content, is_box, require_inside, require_sound
from deim.data.datasets.image_files import missing_images
from deim.data.datasets.listed import missing_image
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
    names: str,
    json_file: str | None = None,
    image_root: str | None = None,
    filter_empty: bool = False,
    problems_allowed: int = 0,
) -> list[dict]:
    """The records of a data set, which is registered first if paths are given.

    Args:
        names: of a registered data set, or of the one to register.
        filter_empty: leave out images without objects; DEIM and D-FINE keep them.
        problems_allowed: so many objects that are wrong are left out, and no more.

    Returns:
        detectron2 records.

    Raises:
        DatasetError: it is not registered, files are missing or malformed, or it has no images or,
            with annotations in the file, none of them has any.
    """
    if (json_file is None) != (image_root is None):
        raise DatasetError(f"data set {names!r}: give both json_file and image_root, or neither")
    if json_file is not None and image_root is not None:
        register_coco(names, json_file, image_root)
    if names not in DatasetCatalog:
        raise DatasetError(
            f"the data set {names!r} is not registered. Known are: {', '.join(DatasetCatalog.keys())}. "
            "Name one of them, or give the paths of yours with dataset.json_file=... dataset.image_root=..."
        )
    metadata = MetadataCatalog.get(names)
    source = metadata.get("json_file")
    if source is not None:
        _require(source, metadata.get("image_root"))
    try:
        records = get_detection_dataset_dicts(names, filter_empty=False, check_consistency=False)
        records = _fit_records(names, records, metadata, problems_allowed)
    except DatasetError:
        raise
    except Exception as error:  # what readers raise for malformed files is of many kinds
        reason = None if source is None else what_is_wrong(source)
        raise DatasetError(f"data set {names!r} ({source}): {reason or error}") from error
    return [r for r in records if any(not a.get("iscrowd", 0) for a in r["annotations"])] if filter_empty else records


def _fit_records(name: str, records: list[dict], metadata: Any, problems_allowed: int) -> list[dict]:
    """Return the records that can be trained on; raise DatasetError if more problems than allowed are in the others."""
    source, root = metadata.get("json_file"), metadata.get("image_root")
    if not any(r.get("annotations") for r in records):
        raise DatasetError(f"data set {name!r} ({source}) has {len(records)} images, but no annotations at all")
    for record in records if root is not None else []:
        require_inside(record["file_name"], root, source)
        if not all(isinstance(record[side], int | float) for side in ("height", "width")):
            size = f"{record['width']!r} x {record['height']!r}"
            raise DatasetError(f"{source}: the image {record['image_id']!r} has the size {size}, which is no number")
    missing = missing_images(record["file_name"] for record in records)
    problems = [missing_image(str(source), path, str(root)) for path in missing]
    left = set(missing)
    content = Content([r for r in records if r["file_name"] not in left], metadata.thing_classes, problems)
    require_sound(name, content, problems_allowed)
    return content.records


def _require(json_file: str, image_root: str | None) -> None:
    if not Path(json_file).is_file():
        raise DatasetError(f"annotation file {json_file} does not exist (set dataset.json_file)")
    if image_root is not None and not PathManager.isdir(str(image_root)):
        raise DatasetError(f"image folder {image_root} does not exist (set dataset.image_root)")


def what_is_wrong(json_file: str) -> str | None:
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
    return _missing_keys(content) or _repeated_ids(content) or _wrong_references(content)


_KEYS = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


def _missing_keys(content: dict) -> str | None:
    for kind, keys in _KEYS.items():
        for place, entry in enumerate(content[kind]):
            missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if missing:
                return f"entry {place + 1} of {kind!r} has no {' and no '.join(missing)}"
            unusable = [key for key in keys if key.endswith("id") and not isinstance(entry[key], int | str)]
            if unusable:
                return f"entry {place + 1} of {kind!r} has the {unusable[0]} {entry[unusable[0]]!r}, which is no number"
            if kind == "annotations" and not is_box(entry["bbox"]):
                return f"annotation {entry['id']} has the bbox {entry['bbox']!r}, which is not 4 numbers"
    return None


def _repeated_ids(content: dict) -> str | None:
    for kind in _KEYS:
        seen = set()
        for entry in content[kind]:
            if entry["id"] in seen:
                return f"the id {entry['id']!r} stands twice in {kind!r}"
            seen.add(entry["id"])
    return None


def _wrong_references(content: dict) -> str | None:
    """Annotations of categories or images that are not there."""
    for key, kind in (("category_id", "categories"), ("image_id", "images")):
        known = {entry["id"] for entry in content[kind]}
        stray = [annotation for annotation in content["annotations"] if annotation[key] not in known]
        if stray:
            first = stray[0]
            return (
                f"{len(stray)} annotations have {'a' if key == 'category_id' else 'an'} {key} that {kind!r} does not "
                f"list, the first: id {first['id']} of image {first['image_id']} with {key} {first[key]}"
            )
    return None
