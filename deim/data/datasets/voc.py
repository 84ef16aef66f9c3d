"""Pascal VOC format: one XML file per image."""

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from deim.data.datasets.image_files import ImageFiles
from deim.data.datasets.parsed_images import ParsedImage, ParsedObject, build_content, parse_entry
from deim.data.datasets.regions import Region
from deim.data.datasets.registration import register_dataset, require_file, require_folder
from deim.data.datasets.text import read_text, read_xml
from deim.data.datasets.validation import DatasetContent, Problem, require_inside_folder
from deim.errors import DatasetError

# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
_EDGES = ("xmin", "ymin", "xmax", "ymax")


def voc_dataset(
    names: str,
    root: str,
    split: str,
    class_names: Sequence[str] = VOC_CLASSES,
    ignore_difficult: bool = False,
    max_invalid_records: int = 0,
    first_pixel: int = 1,
    unlabeled_allowed: bool = False,
) -> list[dict]:
    """Read a split of a folder in Pascal VOC layout.

    The folder contains ``ImageSets/Main/<split>.txt``, ``Annotations/*.xml`` and ``JPEGImages/``.

    Args:
        names: name to register the dataset under.
        root: the folder.
        split: name of the split.
        class_names: class names in index order.
        ignore_difficult: whether objects marked as difficult become crowds, which evaluation ignores; otherwise they
            are normal objects.
        max_invalid_records: number of problems that are tolerated; the affected images and objects are skipped.
        first_pixel: index of the first pixel: 1 in Pascal VOC, where a box from 1 to the width covers the image; 0 in
            annotation tools.
        unlabeled_allowed: whether an image without an XML file is an image without objects; otherwise it is an error.

    Returns:
        detectron2 records.

    Raises:
        DatasetError: if files are missing or malformed. The message names file and line.
    """
    classes = tuple(str(name) for name in class_names)
    read = functools.partial(read_voc, root, split, classes, ignore_difficult, first_pixel, unlabeled_allowed)
    source = f"{root}, {split}, {classes}, difficult ignored: {ignore_difficult}, first pixel: {first_pixel}"
    return register_dataset(names, source, read, max_invalid_records)


def voc_folder_dataset(
    names: str,
    annotation_root: str,
    image_root: str,
    class_names: Sequence[str],
    first_pixel: int = 0,
    max_invalid_records: int = 0,
) -> list[dict]:
    """Read all XML files of a folder, as LabelImg, Label Studio and Roboflow write them.

    Images without an XML file are left out: they may not be annotated yet.

    Args:
        names: name to register the dataset under.
        annotation_root: folder of the XML files.
        image_root: image folder.
        class_names: class names in index order.
        first_pixel: see :func:`voc_dataset`.
        max_invalid_records: number of problems that are tolerated; the affected images and objects are skipped.

    Returns:
        detectron2 records.

    Raises:
        DatasetError: if files are missing or malformed. The message names file and line.
    """
    classes = tuple(str(name) for name in class_names)
    read = functools.partial(read_voc_folder, annotation_root, image_root, classes, first_pixel)
    return register_dataset(
        names, f"{annotation_root}, {image_root}, {classes}, first pixel: {first_pixel}", read, max_invalid_records
    )


def read_voc(
    root: str,
    split: str,
    class_names: Sequence[str],
    ignore_difficult: bool,
    first_pixel: int = 1,
    unlabeled_allowed: bool = False,
) -> DatasetContent:
    """Read a split; see :func:`voc_dataset`."""
    image_list = Path(root) / "ImageSets" / "Main" / f"{split}.txt"
    require_file(image_list)
    stems = [stem for stem in map(_parse_image_list_line, read_text(image_list).splitlines()) if stem]

    def parse_images() -> Iterator[ParsedImage | Problem]:
        for stem in stems:
            path = Path(root) / "Annotations" / f"{stem}.xml"
            try:
                require_inside_folder(str(Path(root) / "JPEGImages" / stem), root, str(image_list))
            except DatasetError as error:
                yield Problem(str(path), str(error), True)
                continue
            if unlabeled_allowed and not path.is_file():
                yield ParsedImage(stem, str(path))
            else:
                yield from parse_xml_file(path, stem, first_pixel, ignore_difficult)

    files = ImageFiles(Path(root) / "JPEGImages")
    return build_content(parse_images(), class_names, files, f"{image_list}", by_stem=True)


def read_voc_folder(
    annotation_root: str, image_root: str, class_names: Sequence[str], first_pixel: int
) -> DatasetContent:
    """Read a folder; see :func:`voc_folder_dataset`."""
    require_folder(Path(annotation_root))
    paths = sorted(path for path in Path(annotation_root).rglob("*") if path.suffix.lower() == ".xml")
    images = ImageFiles(image_root)

    def parse_images() -> Iterator[ParsedImage | Problem]:
        for path in paths:
            stem = path.relative_to(annotation_root).with_suffix("").as_posix()
            for result in parse_xml_file(path, stem, first_pixel):
                if isinstance(result, ParsedImage) and images.find_by_stem(stem) is None:
                    result.name = Path(_read_file_name(path) or stem).stem
                yield result

    content = build_content(parse_images(), class_names, images, annotation_root, by_stem=True)
    content.notes += images.describe_unannotated_images(paths, "XML", content.records)
    return content


def _parse_image_list_line(line: str) -> str:
    """Return the image name in a line of an image list: a name, possibly quoted, and an optional class flag."""
    line = line.strip()
    if line.startswith('"') and '"' in line[1:]:
        return line[1 : line.index('"', 1)]
    return re.sub(r"\s+-?[01]$", "", line)


def _read_file_name(path: Path) -> str | None:
    return read_xml(path).findtext("filename")


def parse_xml_file(
    path: Path, stem: str, first_pixel: int, ignore_difficult: bool = False
) -> Iterator[ParsedImage | Problem]:
    """Yield the problems of an XML file, then its image, or one more problem if the whole file is malformed."""
    problems: list[Problem] = []
    image = parse_entry(_image, str(path), path, stem, first_pixel, ignore_difficult, problems)
    yield from problems
    yield image


def _image(path: Path, stem: str, first_pixel: int, ignore_difficult: bool, problems: list[Problem]) -> ParsedImage:
    tree = read_xml(path)
    lines: list[int | None] = [
        number
        for number, line in enumerate(path.read_bytes().decode(errors="replace").splitlines(), 1)
        for _ in re.finditer(r"<object\b", line)
    ]
    sides = [float(tree.findtext(f"size/{side}") or 0) for side in ("height", "width")]
    image = ParsedImage(stem, str(path), (int(sides[0]), int(sides[1])) if min(sides) > 0 else None)
    elements = list(tree.iter("object"))
    if len(lines) != len(elements):  # a comment contains objects, or the file is in UTF-16
        lines = [None] * len(elements)
    for number, (line, element) in enumerate(zip(lines, elements, strict=True), 1):
        try:
            left, top, right, bottom = (float(element.findtext(f"bndbox/{k}") or "") for k in _EDGES)
        except ValueError:
            location = f"{path}, object {number}" if line is None else f"{path}:{line}"
            problems.append(Problem(location, f"bndbox needs the numbers {', '.join(_EDGES)}", True))
            continue
        label = (element.findtext("name") or "").strip()
        is_difficult = (element.findtext("difficult") or "0").strip() == "1"
        region = Region([left - first_pixel, top - first_pixel, right, bottom])
        image.objects.append(ParsedObject(label, region, ignore_difficult and is_difficult, line))
    return image
