"""COCO-format datasets, registered by path."""

import json
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets import register_coco_instances
from detectron2.utils.file_io import PathManager

from deim.data.datasets.image_files import find_missing_images
from deim.data.datasets.keypoints import (
    KeypointDefinition,
    keypoints_from_metadata,
    keypoints_of_categories,
    records_with_objects,
    select_objects_with_keypoints,
)
from deim.data.datasets.parsed_images import missing_image_problem
from deim.data.datasets.validation import DatasetContent, is_box, require_inside_folder, validate_dataset
from deim.errors import DatasetError


def register_coco(name: str, json_file: str, image_root: str) -> None:
    """Register a COCO-format dataset with detectron2. Registering the same paths again has no effect.

    Args:
        name: name of the dataset; different paths need different names.
        json_file: an ``instances_*.json``; category ids need not be contiguous.
        image_root: image folder.

    Raises:
        DatasetError: if the file or the folder does not exist, or the name is registered for other paths.
    """
    _require_paths(json_file, image_root)
    if name not in DatasetCatalog:
        register_coco_instances(name, {}, str(json_file), str(image_root))
        return
    metadata = MetadataCatalog.get(name)
    registered = (metadata.get("json_file"), metadata.get("image_root"))
    if registered != (str(json_file), str(image_root)):
        raise DatasetError(
            f"the dataset name {name!r} is already registered for {registered[0]} and {registered[1]}; "
            "choose another name"
        )


def coco_dataset(
    names: str,
    json_file: str | None = None,
    image_root: str | None = None,
    filter_empty: bool = False,
    max_invalid_records: int = 0,
    masks: bool = False,
    keypoints: bool = False,
    min_keypoints: int = 0,
) -> list[dict]:
    """Return the records of a dataset; register it first if paths are given.

    Args:
        names: name of a registered dataset, or the name to register it under.
        json_file: an ``instances_*.json`` to register, together with ``image_root``.
        image_root: image folder.
        filter_empty: drop images without objects (crowds do not count); DEIM and D-FINE keep them.
        max_invalid_records: number of problems that are tolerated; the affected images and objects are skipped.
        masks: whether every object must have a valid mask; objects whose mask is empty or outside of the image are
            left out. Without it, masks are not checked.
        keypoints: whether objects must have valid keypoints or none. The names, flip pairs and connections of the
            keypoints are read from ``categories`` and added to the metadata. Without it, keypoints are not checked.
        min_keypoints: drop objects with fewer labeled keypoints, and images without other objects; 0 keeps all.

    Returns:
        detectron2 records.

    Raises:
        DatasetError: if the dataset is not registered, files are missing or malformed, or the dataset has no images
            or no annotations.
    """
    if (json_file is None) != (image_root is None):
        raise DatasetError(f"dataset {names!r}: set both json_file and image_root, or neither")
    if json_file is not None and image_root is not None:
        register_coco(names, json_file, image_root)
    if names not in DatasetCatalog:
        raise DatasetError(
            f"the dataset {names!r} is not registered. Registered datasets: {', '.join(DatasetCatalog.keys())}. "
            "Choose one of them, or set dataloader.*.dataset.json_file=... and dataloader.*.dataset.image_root=... for "
            "your own"
        )
    metadata = MetadataCatalog.get(names)
    source = metadata.get("json_file")
    if source is not None:
        _require_paths(source, metadata.get("image_root"))
    try:
        records = get_detection_dataset_dicts(names, filter_empty=False, check_consistency=False)
        definition = _define_keypoints(metadata) if keypoints else None
        records = _validate_records(names, records, metadata, max_invalid_records, masks, definition)
    except DatasetError:
        raise
    except Exception as error:  # readers raise many kinds of errors for malformed files
        reason = None if source is None else find_format_error(source)
        raise DatasetError(f"dataset {names!r} ({source}): {reason or error}") from error
    if min_keypoints > 0:
        return select_objects_with_keypoints(records, min_keypoints)
    return records_with_objects(records) if filter_empty else records


def _define_keypoints(metadata: Any) -> KeypointDefinition:
    """Return the keypoints in the metadata of a dataset; first add those of its annotation file if there are none.

    Raises:
        DatasetError: if there are no keypoints.
    """
    definition = keypoints_from_metadata(metadata)
    if definition is not None:
        return definition
    source = metadata.get("json_file")
    if source is not None:
        definition = keypoints_of_categories(json.loads(Path(source).read_bytes())["categories"], source)
    if definition is None:
        raise DatasetError(
            f"dataset {metadata.name!r} ({source}) defines no keypoints: no entry of 'categories' has a list 'keypoints' "
            "with their names"
        )
    metadata.set(**definition.to_metadata())
    return definition


def _validate_records(
    name: str,
    records: list[dict],
    metadata: Any,
    max_invalid_records: int,
    masks: bool,
    keypoints: KeypointDefinition | None,
) -> list[dict]:
    """Return the usable records; raise DatasetError if there are more problems than allowed."""
    source, root = metadata.get("json_file"), metadata.get("image_root")
    if not any(r.get("annotations") for r in records):
        raise DatasetError(f"dataset {name!r} ({source}) has {len(records)} images but no annotations")
    for record in records if root is not None else []:
        require_inside_folder(record["file_name"], root, source)
        if not all(isinstance(record[side], int | float) for side in ("height", "width")):
            size = f"{record['width']!r} x {record['height']!r}"
            raise DatasetError(f"{source}: the size of image {record['image_id']!r} is {size}, not a pair of numbers")
    missing = find_missing_images(record["file_name"] for record in records)
    problems = [missing_image_problem(str(source), path, str(root)) for path in missing]
    missing_paths = set(missing)
    existing = [record for record in records if record["file_name"] not in missing_paths]
    content = DatasetContent(existing, metadata.thing_classes, problems, keypoints=keypoints)
    validate_dataset(name, content, max_invalid_records, masks, keypoints is not None)
    if not any(record.get("annotations") for record in content.records):
        raise DatasetError(
            f"dataset {name!r} ({source}) has no images with annotations after invalid ones were skipped"
        )
    return content.records


def _require_paths(json_file: str, image_root: str | None) -> None:
    if not Path(json_file).is_file():
        raise DatasetError(f"annotation file {json_file} does not exist (set dataloader.*.dataset.json_file)")
    if image_root is not None and not PathManager.isdir(str(image_root)):
        raise DatasetError(f"image folder {image_root} does not exist (set dataloader.*.dataset.image_root)")


def find_format_error(json_file: str) -> str | None:
    """Return why a file is not a valid COCO annotation file; None if no problem was found."""
    try:
        content = json.loads(Path(json_file).read_bytes())
    except (ValueError, RecursionError) as error:
        return f"not valid JSON: {error}"
    lists = ("images", "annotations", "categories")
    missing = [key for key in lists if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        return f"not in COCO format: missing lists: {', '.join(missing)}"
    empty = [key for key in ("categories", "images") if not content[key]]
    if empty:
        return f"no entries in {' and '.join(empty)}"
    return _missing_keys(content) or _repeated_ids(content) or _wrong_references(content)


_KEYS = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


def _missing_keys(content: dict) -> str | None:
    for kind, keys in _KEYS.items():
        for index, entry in enumerate(content[kind]):
            missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if missing:
                return f"entry {index + 1} of {kind!r} has no {' and no '.join(missing)}"
            unusable = [key for key in keys if key.endswith("id") and not isinstance(entry[key], int | str)]
            if unusable:
                return f"entry {index + 1} of {kind!r}: {unusable[0]} is {entry[unusable[0]]!r}, not an integer or a string"
            if kind == "annotations" and not is_box(entry["bbox"]):
                return f"annotation {entry['id']}: bbox is {entry['bbox']!r}, not a list of 4 numbers"
    return None


def _repeated_ids(content: dict) -> str | None:
    for kind in _KEYS:
        seen = set()
        for entry in content[kind]:
            if entry["id"] in seen:
                return f"duplicate id {entry['id']!r} in {kind!r}"
            seen.add(entry["id"])
    return None


def _wrong_references(content: dict) -> str | None:
    """Describe annotations that reference missing categories or images; return None if there are none."""
    for key, kind in (("category_id", "categories"), ("image_id", "images")):
        ids = {entry["id"] for entry in content[kind]}
        dangling = [annotation for annotation in content["annotations"] if annotation[key] not in ids]
        if dangling:
            first = dangling[0]
            return (
                f"{len(dangling)} annotations have {'a' if key == 'category_id' else 'an'} {key} that is missing in "
                f"{kind!r}; the first is id {first['id']} of image {first['image_id']} with {key} {first[key]}"
            )
    return None
