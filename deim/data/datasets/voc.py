"""Pascal VOC folders: one XML file per image."""

import functools
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from detectron2.structures import BoxMode
from tqdm import tqdm

from deim.data.datasets.checks import Content, Problem, require_inside
from deim.data.datasets.source import dataset_of, require_file
from deim.data.image import image_size
from deim.errors import DatasetError

# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on


def voc_dataset(
    name: str,
    root: str,
    split: str,
    class_names: Sequence[str] = VOC_CLASSES,
    ignore_difficult: bool = False,
    problems_allowed: int = 0,
) -> list[dict]:
    """The records of ``ImageSets/Main/<split>.txt``, ``Annotations/*.xml`` and ``JPEGImages/``.

    Pixels are counted from 1 in these files: a box from 1 to the width covers the image.

    Args:
        name: to register it by.
        class_names: in the order of the class indices.
        ignore_difficult: make crowds of objects marked as difficult, as evaluation wants it; else they are
            objects as others are.
        problems_allowed: so many images and objects that are wrong are left out, and no more.

    Raises:
        DatasetError: files are missing or malformed; it names file and line.
    """
    read = functools.partial(read_voc, root, split, tuple(class_names), ignore_difficult)
    return dataset_of(name, f"{root}, {split}, difficult ignored: {ignore_difficult}", read, problems_allowed)


def read_voc(root: str, split: str, class_names: Sequence[str], ignore_difficult: bool) -> Content:
    listing = Path(root) / "ImageSets" / "Main" / f"{split}.txt"
    require_file(listing)
    stems = [line.split()[0] for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
    content = Content([], class_names, [])
    for image_id, stem in enumerate(tqdm(stems, f"reading {listing}", delay=2, mininterval=2, unit="image")):
        record = {"file_name": str(_image_of(Path(root), stem)), "image_id": image_id, "annotations": []}
        path = Path(root) / "Annotations" / f"{stem}.xml"
        record["annotation_file"] = str(path)
        try:
            require_inside(str(record["file_name"]), root, str(listing))
            _read_annotations(path, record, class_names, ignore_difficult, content.problems)
        except (OSError, ValueError, ET.ParseError, DatasetError) as error:
            content.problems.append(Problem(str(path), str(error), True))
            continue
        content.records.append(record)
    return content


def _image_of(root: Path, stem: str) -> Path:
    """The image of a name; JPEG if there are several or none."""
    found = [root / "JPEGImages" / f"{stem}{end}" for end in (".jpg", ".png", ".jpeg", ".JPG")]
    return next((path for path in found if path.is_file()), found[0])


def _read_annotations(
    path: Path, record: dict, class_names: Sequence[str], ignore_difficult: bool, problems: list[Problem]
) -> None:
    content = path.read_bytes()
    tree = ET.fromstring(content)  # which knows the encoding that it declares
    text = content.decode(errors="replace")
    lines = [number for number, line in enumerate(text.splitlines(), 1) for _ in re.finditer(r"<object\b", line)]
    sides = [tree.findtext(f"size/{side}") for side in ("height", "width")]
    known = all(side and float(side) > 0 for side in sides)
    size = (int(float(sides[0] or 0)), int(float(sides[1] or 0))) if known else image_size(record["file_name"])
    record["height"], record["width"] = size
    for line, found in zip(lines, tree.iter("object"), strict=True):
        label = (found.findtext("name") or "").strip()
        if label not in class_names:
            problems.append(Problem(f"{path}:{line}", f"class {label!r} is none of {', '.join(class_names)}", True))
            continue
        try:
            left, top, right, bottom = (float(found.findtext(f"bndbox/{k}") or "") for k in _EDGES)
        except ValueError:
            problems.append(Problem(f"{path}:{line}", f"a number of bndbox ({', '.join(_EDGES)}) is missing", True))
            continue
        record["annotations"].append(
            {
                "bbox": [left - 1, top - 1, right, bottom],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": class_names.index(label),
                "iscrowd": int(ignore_difficult and (found.findtext("difficult") or "0").strip() == "1"),
                "line": line,
            }
        )


_EDGES = ("xmin", "ymin", "xmax", "ymax")
