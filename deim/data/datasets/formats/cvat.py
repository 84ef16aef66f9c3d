"""CVAT format, "CVAT for images 1.1": one XML file for all images."""

import functools
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path

from deim.data.datasets.checks import Content, Problem
from deim.data.datasets.found import Discovered, Format, Split, described, split_of
from deim.data.datasets.image_files import ImageFiles
from deim.data.datasets.listed import ListedImage, ListedObject, content_of, parsed
from deim.data.datasets.regions import Region, ellipse, mask, mask_of_runs, polygon, rotated
from deim.data.datasets.source import dataset_of
from deim.data.datasets.text import read_xml
from deim.errors import DatasetError

_ROOT = re.compile(rb"<annotations[\s>]")
_SHAPES = ("box", "polygon", "mask", "ellipse")
_WITHOUT_AREA = ("tag", "points", "polyline", "skeleton")


def cvat_dataset(
    names: str,
    annotation_file: str,
    image_root: str,
    class_names: Sequence[str],
    subset: str | None = None,
    max_invalid_records: int = 0,
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

    Returns:
        detectron2 records.

    Raises:
        DatasetError: if the file is missing or malformed, or images do not exist. The message names the image.
    """
    classes = [str(one) for one in class_names]
    read = functools.partial(read_cvat, annotation_file, image_root, classes, subset)
    return dataset_of(names, f"{annotation_file}, {image_root}, {subset}, {classes}", read, max_invalid_records)


def read_cvat(annotation_file: str, image_root: str, class_names: Sequence[str], subset: str | None) -> Content:
    """Read the file; see :func:`cvat_dataset`."""
    tree = _tree(Path(annotation_file))

    def listed() -> Iterator[ListedImage | Problem]:
        for number, image in enumerate(tree.iter("image"), 1):
            if subset is None or image.get("subset") == subset:
                place = f"{annotation_file}, image {image.get('name') or number}"
                yield parsed(_image, place, image, annotation_file, subset)

    content = content_of(listed(), class_names, ImageFiles(image_root), annotation_file)
    others = sum(
        1 for image in tree.iter("image") for shape in image if shape.tag in ("points", "polyline", "skeleton")
    )
    if others:
        content.notes.append(f"{others} points, lines and skeletons are left out")
    return content


def _tree(file: Path) -> ET.Element:
    tree = read_xml(file)
    if tree.tag != "annotations":
        raise DatasetError(f"{file} is not a CVAT annotations.xml: its root element is {tree.tag!r}")
    if tree.find("track") is not None:
        raise DatasetError(f'{file} contains video tracks; export the task as "CVAT for images 1.1"')
    return tree


def _image(image: ET.Element, source: str, subset: str | None) -> ListedImage:
    size = (int(image.attrib["height"]), int(image.attrib["width"]))
    written = image.attrib["name"]
    found = ListedImage(f"{subset}/{written}" if subset else written, source, size)
    for shape in image:
        if shape.tag in _SHAPES:
            found.objects.append(ListedObject(shape.attrib["label"], _region(shape, size)))
    return found


def _region(shape: ET.Element, size: tuple[int, int]) -> Region:
    turned = float(shape.get("rotation", 0))
    if shape.tag == "box":
        return rotated(*_four(shape, "xtl", "ytl", "xbr", "ybr"), turned)
    if shape.tag == "ellipse":
        return ellipse(*_four(shape, "cx", "cy", "rx", "ry"), turned)
    if shape.tag == "polygon":
        return polygon([[float(n) for n in point.split(",")] for point in shape.attrib["points"].split(";")])
    left, top, width, height = (int(float(shape.attrib[key])) for key in ("left", "top", "width", "height"))
    return mask(mask_of_runs([int(n) for n in shape.attrib["rle"].split(",")], height, width), left, top, size)


def _four(shape: ET.Element, *keys: str) -> tuple[float, float, float, float]:
    a, b, c, d = (float(shape.attrib[key]) for key in keys)
    return a, b, c, d


def _signs(place: Path) -> list[Path]:
    files = [place] if place.is_file() else sorted(place.glob("*.xml"))[:50]
    return [file for file in files if file.suffix.lower() == ".xml" and _is_cvat(file)]


def _is_cvat(file: Path) -> bool:
    with file.open("rb") as opened:
        return _ROOT.search(opened.read(4096)) is not None


def _describe(place: Path, signs: list[Path], images: Path | None) -> Discovered:
    splits: dict[str, Split] = {}
    classes: dict[str, None] = {}
    for file in signs:
        tree = _tree(file)
        classes |= dict.fromkeys(_labels(tree))
        root = images or next(
            (file.parent / one for one in ("images", "data") if (file.parent / one).is_dir()), file.parent
        )
        arguments = {"annotation_file": str(file), "image_root": str(root)}
        subsets = {image.get("subset") for image in tree.iter("image")} - {None}
        if subsets:
            splits |= {str(one): Split(cvat_dataset, arguments | {"subset": one}) for one in sorted(map(str, subsets))}
        else:
            splits[split_of(file, file.parent) or ("all" if len(signs) == 1 else file.stem)] = Split(
                cvat_dataset, arguments
            )
    for split in splits.values():
        split.arguments["class_names"] = list(classes)
    return described("CVAT for images", place, list(classes), splits)


def _labels(tree: ET.Element) -> list[str]:
    """Return the listed labels of shapes with an area, followed by unlisted labels that shapes use."""
    names = []
    for label in tree.iterfind("meta//labels/label"):
        kind = (label.findtext("type") or "").strip()
        if label.find("parent") is None and kind not in _WITHOUT_AREA:
            names.append((label.findtext("name") or "").strip())
    used = {shape.get("label", "") for image in tree.iter("image") for shape in image if shape.tag in _SHAPES}
    return [name for name in names if name] + sorted(used - set(names))


CVAT = Format("CVAT for images", "CVAT's annotations.xml", _signs, _describe, takes_images=True)
