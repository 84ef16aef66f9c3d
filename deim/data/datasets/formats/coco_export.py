"""COCO files exported by annotation tools."""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deim.data.datasets.image_files import ImageFiles
from deim.data.datasets.keypoints import keypoints_of_categories
from deim.data.datasets.parsed_images import ParsedImage, ParsedObject, build_content, parse_entry
from deim.data.datasets.regions import Region, coco_region
from deim.data.datasets.registration import register_dataset
from deim.data.datasets.text import read_json
from deim.data.datasets.validation import DatasetContent, Problem, is_box
from deim.errors import DatasetError


def coco_export_dataset(
    names: str,
    json_file: str,
    image_root: str,
    class_names: Sequence[str],
    max_invalid_records: int = 0,
    masks: bool = False,
    keypoints: bool = False,
    min_keypoints: int = 0,
) -> list[dict]:
    """Read a COCO file exported by an annotation tool.

    Unlike :func:`deim.data.coco_dataset`, this reader matches categories by name, computes missing boxes from the
    segmentation, reads missing sizes from the images, accepts text ids, and finds images by
    :class:`deim.data.datasets.image_files.ImageFiles`.

    Args:
        names: name to register the dataset under.
        json_file: the annotation file.
        image_root: folder that contains all images at any depth.
        class_names: class names in index order.
        max_invalid_records: number of problems that are tolerated; the affected images and objects are skipped.
        masks, keypoints, min_keypoints: see :func:`deim.data.coco_dataset`; keypoints are read only on request.

    Returns:
        detectron2 records.

    Raises:
        DatasetError: if the file is missing or malformed, or images do not exist. The message names the entry.
    """
    classes = [str(name) for name in class_names]
    read = functools.partial(read_coco_export, json_file, image_root, classes, masks, keypoints)
    source = f"{json_file}, {image_root}, {classes}"
    return register_dataset(names, source, read, max_invalid_records, masks, keypoints, min_keypoints)


def read_coco_export(
    json_file: str, image_root: str, class_names: Sequence[str], masks: bool = False, keypoints: bool = False
) -> DatasetContent:
    """Read the file; see :func:`coco_export_dataset`."""
    lists = read_lists(Path(json_file))
    definition = keypoints_of_categories(lists["categories"], json_file) if keypoints else None
    categories = {category.key: category.name for category in parse_categories(lists, json_file)}
    grouped: dict[str, list[Any]] = defaultdict(list)
    for annotation in lists["annotations"]:
        grouped[_id_as_text(annotation, "image_id")].append(annotation)
    parse_object = functools.partial(_object, categories=categories, masks=masks, keypoints=keypoints)
    images = list(_parse_images(lists["images"], grouped, parse_object, json_file))
    parsed = [image for image in images if isinstance(image, ParsedImage)]
    if len({image.image_id for image in parsed} - {None}) < len(parsed):  # text ids, or ids such as "1" and "01"
        for image in parsed:
            image.image_id = None
    content = build_content(images, class_names, ImageFiles(image_root), json_file)
    content.keypoints = definition
    image_ids = {_id_as_text(image, "id") for image in lists["images"]}
    for number, annotation in enumerate(lists["annotations"], 1):
        key = _id_as_text(annotation, "image_id")
        if key not in image_ids:
            location = f"{json_file}, entry {number} of 'annotations'"
            message = f"the image_id {key} is missing in 'images'" if key else "not an annotation with an image_id"
            content.problems.append(Problem(location, message, False))
    return content


def read_lists(file: Path) -> dict[str, list[Any]]:
    """Read a COCO file.

    Returns:
        the lists ``images``, ``annotations`` and ``categories``.

    Raises:
        DatasetError: if the file is not in COCO format, or lists no images or no categories.
    """
    content = read_json(file)
    keys = ("images", "annotations", "categories")
    missing = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise DatasetError(f"{file} is not in COCO format: missing lists: {', '.join(missing)}")
    empty = [key for key in ("images", "categories") if not content[key]]
    if empty:
        raise DatasetError(f"{file}: no entries in {' and '.join(empty)}")
    return {key: content[key] for key in keys}


class Category:
    """A category of a COCO file.

    Attributes:
        key: id as text.
        name: name.
        parent: ``supercategory``.
    """

    def __init__(self, entry: Mapping[str, Any]):
        self.key, self.name, self.parent = str(entry["id"]), str(entry["name"]), str(entry.get("supercategory"))


def parse_categories(lists: Mapping[str, list[Any]], source: str | Path) -> list[Category]:
    """Return the categories of a COCO file, in numerical order of their ids if all ids are numbers.

    Raises:
        DatasetError: if a category has no id or no name.
    """
    for number, entry in enumerate(lists["categories"], 1):
        if not isinstance(entry, dict) or not {"id", "name"} <= entry.keys():
            raise DatasetError(f"{source}: entry {number} of 'categories' has no id or no name")
    categories = [Category(entry) for entry in lists["categories"]]
    if all(category.key.isdecimal() for category in categories):
        categories.sort(key=lambda category: int(category.key))
    return categories


def _id_as_text(entry: Any, key: str) -> str:
    return str(entry.get(key)) if isinstance(entry, dict) else ""


def _parse_images(
    images: Sequence[Any],
    grouped: Mapping[str, list[Any]],
    parse_object: Callable[[Any, str], ParsedObject | Problem],
    source: str,
) -> Iterator[ParsedImage | Problem]:
    seen_ids: set[str] = set()
    for number, image in enumerate(images, 1):
        key = _id_as_text(image, "id")
        if key in seen_ids:
            yield Problem(f"{source}, entry {number} of 'images'", f"duplicate id {key}", True)
            continue
        seen_ids.add(key)
        result = parse_entry(_image, f"{source}, entry {number} of 'images'", image, source)
        if isinstance(result, ParsedImage):
            for annotation in grouped.get(key, ()):
                parsed_object = parse_object(annotation, f"{source}, {result.name}")
                if isinstance(parsed_object, Problem):
                    yield parsed_object
                else:
                    result.objects.append(parsed_object)
        yield result


def _image(image: Mapping[str, Any], source: str) -> ParsedImage:
    name, number, height, width = image["file_name"], image["id"], image.get("height"), image.get("width")
    if not isinstance(name, str) or not name:
        raise ValueError(f"invalid file_name {name!r}")
    if not number and number != 0:
        raise ValueError(f"invalid id {number!r}")
    size = (int(height), int(width)) if height and width else None
    return ParsedImage(name, source, size, [], int(number) if str(number).isdecimal() else None)


def _object(
    annotation: Mapping[str, Any], image_location: str, categories: Mapping[str, str], masks: bool, keypoints: bool
) -> ParsedObject | Problem:
    location = f"{image_location}, annotation {annotation.get('id')}"
    category = str(annotation.get("category_id"))
    if category not in categories:
        return Problem(location, f"the category_id {category} is missing in 'categories'", True)
    try:
        region = _region(annotation, masks)
        points = _keypoints(annotation) if keypoints else None
        is_crowd = bool(int(annotation.get("iscrowd") or 0) or int(annotation.get("ignore") or 0))
    except (TypeError, ValueError, OverflowError) as error:
        return Problem(location, str(error), True)
    return ParsedObject(categories[category], region, is_crowd, keypoints=points)


def _keypoints(annotation: Mapping[str, Any]) -> list[float] | None:
    """Return x, y and visibility of each keypoint; None if there are none, and malformed keypoints unchanged.

    COCO's keypoints are pixel indices: the center of pixel 0, which is at 0.5, has the coordinate 0.
    """
    values = annotation.get("keypoints")
    if not isinstance(values, list) or not all(isinstance(value, int | float) for value in values):
        return values  # reported by the validation
    return [value if index % 3 == 2 else value + 0.5 for index, value in enumerate(values)]


def _region(annotation: Mapping[str, Any], masks: bool) -> Region:
    """Return the given box or, if it is missing, that of the segmentation; valid polygons and masks are kept.

    Args:
        masks: whether to keep invalid polygons and masks as well, so that they are reported.
    """
    box, segmentation = annotation.get("bbox"), annotation.get("segmentation")
    if box in (None, []):
        if not segmentation:
            raise ValueError("bbox and segmentation are missing")
        return coco_region(segmentation)
    if not is_box(box):
        raise ValueError(f"the bbox {box!r} is not a list of 4 numbers")
    x, y, width, height = (float(value) for value in box)
    try:
        outline = coco_region(segmentation).segmentation if segmentation else None
    except (TypeError, ValueError):
        outline = segmentation if masks else None  # without masks, the box alone is sufficient
    return Region([x, y, x + width, y + height], outline)
