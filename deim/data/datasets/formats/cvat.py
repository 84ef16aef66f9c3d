"""CVAT format, "CVAT for images 1.1": one XML file for all images."""

import functools
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path

from deim.data.datasets.dataset_format import DiscoveredDataset, Format, Split, assemble_dataset, infer_split
from deim.data.datasets.image_files import ImageFiles
from deim.data.datasets.parsed_images import ParsedImage, ParsedObject, build_content, parse_entry
from deim.data.datasets.regions import Region, decode_run_lengths, ellipse, mask_region, polygon, rotated_box
from deim.data.datasets.registration import register_dataset
from deim.data.datasets.text import read_xml
from deim.data.datasets.validation import DatasetContent, Problem
from deim.errors import DatasetError

_ROOT = re.compile(rb"<annotations[\s>]")
_SHAPES = ("box", "polygon", "mask", "ellipse")
_LEFT_OUT = ("points", "polyline", "skeleton", "cuboid")


def cvat_dataset(
    names: str,
    annotation_file: str,
    image_root: str,
    class_names: Sequence[str],
    subset: str | None = None,
    max_invalid_records: int = 0,
    masks: bool = False,
) -> list[dict]:
    """Read a CVAT ``annotations.xml``.

    Boxes, rotated boxes, polygons, ellipses and masks become objects; other shapes are left out.

    Args:
        names: name to register the dataset under.
        annotation_file: the XML file.
        image_root: folder that contains all images at any depth.
        class_names: class names in index order.
        subset: read only the images of this subset of the project; None reads all images.
        max_invalid_records: number of problems that are tolerated; the affected images and objects are skipped.
        masks: whether every object must have a mask.

    Returns:
        detectron2 records.

    Raises:
        DatasetError: if the file is missing or malformed, or images do not exist. The message names the image.
    """
    classes = [str(name) for name in class_names]
    read = functools.partial(read_cvat, annotation_file, image_root, classes, subset)
    source = f"{annotation_file}, {image_root}, {subset}, {classes}"
    return register_dataset(names, source, read, max_invalid_records, masks)


def read_cvat(annotation_file: str, image_root: str, class_names: Sequence[str], subset: str | None) -> DatasetContent:
    """Read the file; see :func:`cvat_dataset`."""
    tree = _read_annotations(Path(annotation_file))

    def parse_images() -> Iterator[ParsedImage | Problem]:
        for number, image in enumerate(tree.iter("image"), 1):
            if subset is None or image.get("subset") == subset:
                location = f"{annotation_file}, image {image.get('name') or number}"
                yield parse_entry(_image, location, image, annotation_file, subset)

    content = build_content(parse_images(), class_names, ImageFiles(image_root), annotation_file)
    images = [image for image in tree.iter("image") if subset is None or image.get("subset") == subset]
    left_out = sum(1 for image in images for shape in image if shape.tag in _LEFT_OUT)
    if left_out:
        content.notes.append(f"{left_out} points, lines, skeletons and cuboids are left out")
    return content


def _read_annotations(file: Path) -> ET.Element:
    tree = read_xml(file)
    if tree.tag != "annotations":
        raise DatasetError(f"{file} is not a CVAT annotations.xml: its root element is {tree.tag!r}")
    if tree.find("track") is not None:
        raise DatasetError(f'{file} contains video tracks; export the task as "CVAT for images 1.1"')
    return tree


def _image(image: ET.Element, source: str, subset: str | None) -> ParsedImage:
    size = (int(image.attrib["height"]), int(image.attrib["width"]))
    listed_name = image.attrib["name"]
    parsed_image = ParsedImage(f"{subset}/{listed_name}" if subset else listed_name, source, size)
    for shape in image:
        if shape.tag in _SHAPES:
            parsed_image.objects.append(ParsedObject(shape.attrib["label"], _region(shape, size)))
    return parsed_image


def _region(shape: ET.Element, size: tuple[int, int]) -> Region:
    rotation = float(shape.get("rotation", 0))
    if shape.tag == "box":
        return rotated_box(*_four_numbers(shape, "xtl", "ytl", "xbr", "ybr"), rotation)
    if shape.tag == "ellipse":
        return ellipse(*_four_numbers(shape, "cx", "cy", "rx", "ry"), rotation)
    if shape.tag == "polygon":
        return polygon([[float(n) for n in point.split(",")] for point in shape.attrib["points"].split(";")])
    left, top, width, height = (int(float(shape.attrib[key])) for key in ("left", "top", "width", "height"))
    return mask_region(
        decode_run_lengths([int(n) for n in shape.attrib["rle"].split(",")], height, width), left, top, size
    )


def _four_numbers(shape: ET.Element, *keys: str) -> tuple[float, float, float, float]:
    a, b, c, d = (float(shape.attrib[key]) for key in keys)
    return a, b, c, d


def _find_matches(dataset_path: Path) -> list[Path]:
    files = [dataset_path] if dataset_path.is_file() else sorted(dataset_path.glob("*.xml"))[:50]
    return [file for file in files if file.suffix.lower() == ".xml" and _is_cvat(file)]


def _is_cvat(file: Path) -> bool:
    with file.open("rb") as opened:
        return _ROOT.search(opened.read(4096)) is not None


def _describe(dataset_path: Path, matches: list[Path], image_root: Path | None) -> DiscoveredDataset:
    splits: dict[str, Split] = {}
    classes: dict[str, None] = {}
    notes: list[str] = []
    for file in matches:
        tree = _read_annotations(file)
        classes |= dict.fromkeys(_class_names(tree))
        root = image_root or next(
            (file.parent / name for name in ("images", "data") if (file.parent / name).is_dir()), file.parent
        )
        arguments = {"annotation_file": str(file), "image_root": str(root)}
        subsets = {image.get("subset") for image in tree.iter("image")} - {None}
        if subsets:
            file_splits = {
                name: Split(cvat_dataset, arguments | {"subset": name}) for name in sorted(map(str, subsets))
            }
        else:
            name = infer_split(file, file.parent) or ("all" if len(matches) == 1 else file.stem)
            file_splits = {name: Split(cvat_dataset, arguments)}
        notes += [
            f"several files for the split {name!r}; ignoring {file.name}" for name in file_splits if name in splits
        ]
        splits = file_splits | splits
    for split in splits.values():
        split.arguments["class_names"] = list(classes)
    return assemble_dataset("CVAT for images", dataset_path, list(classes), splits, notes)


def _class_names(tree: ET.Element) -> list[str]:
    """Return the listed labels of the shapes that are read, followed by unlisted labels that these shapes use."""
    names = []
    for label in tree.iterfind("meta//labels/label"):
        kind = (label.findtext("type") or "").strip()
        if label.find("parent") is None and kind not in ("tag", *_LEFT_OUT):
            names.append((label.findtext("name") or "").strip())
    used_labels = {shape.get("label", "") for image in tree.iter("image") for shape in image if shape.tag in _SHAPES}
    return [name for name in names if name] + sorted(used_labels - set(names))


CVAT = Format("CVAT for images", "CVAT's annotations.xml", _find_matches, _describe, accepts_image_root=True)
