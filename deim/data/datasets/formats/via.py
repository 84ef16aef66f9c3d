"""VIA format (VGG Image Annotator): one JSON or CSV file for all images."""

import csv
import functools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deim.data.datasets.dataset_format import (
    DiscoveredDataset,
    Format,
    Split,
    assemble_dataset,
    infer_split,
    list_subfolders,
    select_splits,
)
from deim.data.datasets.image_files import ImageFiles
from deim.data.datasets.parsed_images import ParsedImage, ParsedObject, build_content, parse_entry
from deim.data.datasets.regions import Region, ellipse, polygon, rectangle
from deim.data.datasets.registration import register_dataset
from deim.data.datasets.text import read_json, read_text
from deim.data.datasets.validation import DatasetContent, Problem
from deim.errors import DatasetError

# Common names of the attribute that holds the class.
_CLASS_ATTRIBUTES = ("label", "class", "name", "category", "type", "object", "class_name", "label_name")
# Class of all regions if regions have no attributes.
_ONLY_CLASS = "object"
_SHAPES = ("rect", "polygon", "circle", "ellipse")


def via_dataset(
    names: str,
    annotation_file: str,
    image_root: str,
    class_names: Sequence[str],
    attribute: str | None,
    max_invalid_records: int = 0,
    masks: bool = False,
) -> list[dict]:
    """Read annotations or a project of VIA 1 or 2.

    Rectangles, polygons, circles and ellipses become objects; points and lines are left out.

    Args:
        names: name to register the dataset under.
        annotation_file: a JSON or CSV file.
        image_root: folder that contains all images at any depth.
        class_names: class names in index order.
        attribute: region attribute that holds the class; None if there is only one class.
        max_invalid_records: number of problems that are tolerated; the affected images and objects are skipped.
        masks: whether every object must have a mask.

    Returns:
        detectron2 records.

    Raises:
        DatasetError: if the file is missing or malformed, or images do not exist. The message names the image.
    """
    classes = [str(name) for name in class_names]
    read = functools.partial(read_via, annotation_file, image_root, classes, attribute)
    source = f"{annotation_file}, {image_root}, {attribute}, {classes}"
    return register_dataset(names, source, read, max_invalid_records, masks)


def read_via(
    annotation_file: str, image_root: str, class_names: Sequence[str], attribute: str | None
) -> DatasetContent:
    """Read the file; see :func:`via_dataset`."""

    def parse_images() -> Iterator[ParsedImage | Problem]:
        for number, (listed_name, regions) in enumerate(_entries(Path(annotation_file)), 1):
            yield parse_entry(
                _image,
                f"{annotation_file}, image {listed_name or number}",
                listed_name,
                regions,
                annotation_file,
                attribute,
            )

    return build_content(parse_images(), class_names, ImageFiles(image_root), annotation_file)


def _entries(file: Path) -> Iterator[tuple[Any, Any]]:
    """Yield the name and the regions of each image; a region has ``shape_attributes`` and ``region_attributes``.

    Raises:
        DatasetError: if the whole file is malformed.
    """
    if file.suffix.lower() == ".csv":
        yield from _csv_entries(file)
        return
    content = read_json(file)
    if isinstance(content, dict):
        content = content.get("_via_img_metadata", content)
    if not isinstance(content, dict):
        raise DatasetError(f"{file} is not in VIA format: expected a JSON object with one entry per image")
    for key, entry in content.items():
        if not isinstance(entry, dict) or "filename" not in entry or "regions" not in entry:
            raise DatasetError(f"{file} is not in VIA format: the entry {key!r} has no filename or no regions")
        yield entry["filename"], entry["regions"]


def _csv_entries(file: Path) -> Iterator[tuple[Any, Any]]:
    images: dict[str, list[Any]] = defaultdict(list)
    reader = csv.DictReader(read_text(file).splitlines())
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise DatasetError(f"{file}:{reader.reader.line_num}: {error}") from error
    for number, row in rows:
        listed_name = row.get("filename") or row.get("#filename")
        if not listed_name:
            raise DatasetError(f"{file}:{number}: the filename is missing")
        try:
            region = {key: json.loads(row.get(key) or "{}") for key in ("region_shape_attributes", "region_attributes")}
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{file}:{number}: the attributes are not valid JSON: {error}") from error
        images[listed_name] += [region] if region["region_shape_attributes"] else []
    yield from images.items()


def _image(listed_name: Any, regions: Any, source: str, attribute: str | None) -> ParsedImage:
    if not isinstance(listed_name, str):
        raise ValueError(f"invalid filename {listed_name!r}")
    parsed_image = ParsedImage(listed_name, source)
    # In VIA 1, regions are a dict with numbers as keys.
    for region in regions.values() if isinstance(regions, dict) else regions:
        shape = _shape_attributes(region)
        if shape.get("name") in _SHAPES:
            parsed_image.objects.append(ParsedObject(_label(region, attribute), _region(shape)))
    return parsed_image


def _shape_attributes(region: Mapping[str, Any]) -> Mapping[str, Any]:
    return region["shape_attributes"] if "shape_attributes" in region else region["region_shape_attributes"]


def _label(region: Mapping[str, Any], attribute: str | None) -> str:
    """Return the class of a region: the text of the attribute, or its selected option."""
    if attribute is None:
        return _ONLY_CLASS
    value = region["region_attributes"].get(attribute)
    if isinstance(value, dict):
        value = next((name for name, is_selected in value.items() if is_selected), None)
    if value is None or value == "":
        raise ValueError(f"a region has no attribute {attribute!r}")
    return str(value).strip()


def _region(shape: Mapping[str, Any]) -> Region:
    if shape["name"] == "rect":
        x, y, width, height = (float(shape[key]) for key in ("x", "y", "width", "height"))
        return rectangle(x, y, x + width, y + height)
    if shape["name"] == "polygon":
        return polygon(list(zip(shape["all_points_x"], shape["all_points_y"], strict=True)))
    x, y = float(shape["cx"]), float(shape["cy"])
    if shape["name"] == "circle":
        return ellipse(x, y, float(shape["r"]), float(shape["r"]))
    return ellipse(x, y, float(shape["rx"]), float(shape["ry"]), math.degrees(float(shape.get("theta") or 0)))


def _find_matches(dataset_path: Path) -> list[Path]:
    if dataset_path.is_file():
        return [dataset_path] if _is_via(dataset_path) else []
    folders = [dataset_path, *list_subfolders(dataset_path)][:50]
    files = [
        path for folder in folders for path in (*sorted(folder.glob("*.json"))[:20], *sorted(folder.glob("*.csv"))[:20])
    ]
    return [path for path in files if _is_via(path)]


def _is_via(path: Path) -> bool:
    if path.suffix.lower() not in (".json", ".csv"):
        return False
    content = path.read_bytes()
    if path.suffix.lower() == ".csv":
        return b"region_shape_attributes" in content[:4096]
    return b'"regions"' in content and b'"filename"' in content


def _describe(dataset_path: Path, matches: list[Path], image_root: Path | None) -> DiscoveredDataset:
    notes: list[str] = []
    groups: dict[str, list[Path]] = defaultdict(list)
    for file in matches:
        groups[
            "all" if dataset_path.is_file() or len(matches) == 1 else infer_split(file, dataset_path) or file.stem
        ].append(file)
    files = {name: group[0] for name, group in groups.items()}
    ignored = [path.name for group in groups.values() for path in group[1:]]
    if ignored:
        notes.append(f"several files for one split; ignoring {', '.join(ignored)}")
    attribute, classes = _classes([files[name] for name in select_splits(files) if name], notes)
    splits = {}
    for name, file in files.items():
        candidates = [
            file.parent / "images",
            dataset_path / name,
            dataset_path / "images" / name,
            dataset_path / "images",
        ]
        root = image_root or next((candidate for candidate in candidates if candidate.is_dir()), file.parent)
        arguments = {
            "annotation_file": str(file),
            "image_root": str(root),
            "class_names": classes,
            "attribute": attribute,
        }
        splits[name] = Split(via_dataset, arguments)
    return assemble_dataset("VIA", dataset_path, classes, splits, notes)


def _classes(files: Sequence[Path], notes: list[str]) -> tuple[str | None, list[str]]:
    """Return the attribute that holds the class, and its values."""
    values: dict[str, Counter] = defaultdict(Counter)
    for file in files:
        for _, regions in _entries(file):
            try:
                for region in regions.values() if isinstance(regions, dict) else regions:
                    if _shape_attributes(region).get("name") in _SHAPES:
                        for key, value in region["region_attributes"].items():
                            if value not in ("", None):
                                label = _label(region, key)
                                values[key][label] += 1
            except (KeyError, TypeError, ValueError, AttributeError):  # reported with the image when the split is read
                continue
    if not values:
        notes.append(f"regions have no attributes; all get the class {_ONLY_CLASS!r}")
        return None, [_ONLY_CLASS]
    known_attributes = [key for key in values if key.lower() in _CLASS_ATTRIBUTES]
    attribute = (
        min(known_attributes, key=lambda key: _CLASS_ATTRIBUTES.index(key.lower()))
        if known_attributes
        else max(values, key=lambda key: values[key].total())
    )
    notes.append(f"using the region attribute {attribute!r} as the class" + (
        f"; ignoring {', '.join(repr(key) for key in values if key != attribute)}" if len(values) > 1 else ""
    ))  # fmt: skip
    return attribute, sorted(values[attribute])


VIA = Format("VIA", "a VGG Image Annotator JSON or CSV file", _find_matches, _describe, accepts_image_root=True)
