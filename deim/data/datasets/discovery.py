"""What lies at a path: which format of data set it is, its splits and its classes."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deim.data.datasets.coco import coco_dataset
from deim.data.datasets.voc import VOC_CLASSES, voc_dataset
from deim.data.datasets.yolo import class_names, read_settings, yolo_dataset
from deim.errors import DatasetError

# What people call the splits, the usual names first.
TRAIN, TEST = ("train", "training", "trainval"), ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class Split:
    """A call that reads a split.

    Attributes:
        read: such as :func:`deim.data.coco_dataset`.
        arguments: of it, without ``name``.
    """

    read: Callable[..., list[dict]]
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Discovered:
    """
    Attributes:
        format: "COCO", "YOLO" or "Pascal VOC".
        classes: names, in the order of their indices.
        train: the split to train on.
        test: the split to evaluate on; None if there is none.
    """

    format: str
    classes: Sequence[str]
    train: Split
    test: Split | None


def discover(path: str) -> Discovered:
    """Tell what a data set is by what lies there.

    Args:
        path: a ``data.yaml`` of YOLO or the folder with it; a folder of Pascal VOC (``ImageSets/Main``); or a folder with
            COCO's annotations: ``annotations/instances_<split>*.json``, ``<split>.json``, or Roboflow's
            ``<split>/_annotations.coco.json``.

    Raises:
        DatasetError: it is none of these, or has nothing to train on; says what was looked for.
    """
    place = Path(path)
    if not place.exists():
        raise DatasetError(f"there is no data at {path}")
    if place.is_file():
        if place.suffix not in (".yaml", ".yml"):
            raise DatasetError(f"{path} is no data.yaml: give that, or the folder of a COCO or Pascal VOC data set")
        return _yolo(place)
    described = [place / name for name in ("data.yaml", "data.yml") if (place / name).is_file()]
    if described:
        return _yolo(described[0])
    if (place / "ImageSets" / "Main").is_dir():
        return _voc(place)
    return _coco(place)


def _yolo(path: Path) -> Discovered:
    settings = read_settings(path)
    classes = [str(name) for name in class_names(settings)]
    splits = {
        name: Split(yolo_dataset, {"data_file": str(path), "split": name})
        for name in (*TRAIN, *TEST)
        if settings.get(name)
    }
    return _discovered("YOLO", path, classes, splits)


def _voc(folder: Path) -> Discovered:
    splits_there = {file.stem for file in (folder / "ImageSets" / "Main").glob("*.txt")}
    classes = _voc_classes(folder)
    splits = {}
    for name in (*TRAIN, *TEST):
        if name in splits_there:
            arguments = {"root": str(folder), "split": name, "class_names": classes}
            splits[name] = Split(voc_dataset, arguments | ({"ignore_difficult": True} if name in TEST else {}))
    return _discovered("Pascal VOC", folder, classes, splits)


def _voc_classes(folder: Path) -> list[str]:
    """The names that objects have: in VOC's order if they are all VOC's, else by the alphabet."""
    names = set()
    for file in (folder / "Annotations").glob("*.xml"):
        try:
            names |= {(found.findtext("name") or "").strip() for found in ET.parse(file).iter("object")}
        except ET.ParseError:  # told with its place when the split is read
            continue
    return [name for name in VOC_CLASSES if name in names] if names <= set(VOC_CLASSES) else sorted(names)


def _coco(folder: Path) -> Discovered:
    splits, classes = {}, None
    for name in (*TRAIN, *TEST):
        file = next(_coco_files(folder, name), None)
        if file is None:
            continue
        content = _read(file)
        arguments = {"json_file": str(file), "image_root": str(_image_root(folder, file, name, content["images"]))}
        splits[name] = Split(coco_dataset, arguments)
        # detectron2 numbers the classes by their ids
        found = [one["name"] for one in sorted(content["categories"], key=lambda one: one["id"])]
        if classes is not None and found != classes:
            raise DatasetError(f"{file} has other categories than the split before it ({', '.join(classes)})")
        classes = found
    return _discovered("COCO", folder, classes or [], splits)


def _coco_files(folder: Path, split: str) -> Iterator[Path]:
    patterns = (
        f"annotations/instances_{split}*.json",
        f"annotations/{split}*.json",
        f"instances_{split}*.json",
        f"{split}/_annotations.coco.json",
        f"{split}/annotations.json",
        f"{split}.json",
    )
    for pattern in patterns:
        yield from sorted(folder.glob(pattern))


def _read(file: Path) -> dict[str, list[dict]]:
    try:
        content = json.loads(file.read_bytes())
        if all(content[key] and isinstance(content[key], list) for key in ("images", "categories")):
            return content
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{file} is not in COCO's format: {error!r}") from error
    raise DatasetError(f"{file} lists no images or no categories")


def _image_root(folder: Path, file: Path, split: str, images: Sequence[dict]) -> Path:
    """The folder in which the first image is."""
    written = file.stem.removeprefix("instances_")
    places = [
        *(folder / name for name in (written, f"images/{written}", split, f"images/{split}", "images")),
        file.parent,
        folder,
    ]
    name = images[0].get("file_name", "")
    for place in places:
        if (place / name).is_file():
            return place
    raise DatasetError(f"the first image of {file}, {name}, is in none of {', '.join(str(place) for place in places)}")


def _discovered(kind: str, path: Path, classes: Sequence[str], splits: dict[str, Split]) -> Discovered:
    train = next((splits[name] for name in TRAIN if name in splits), None)
    if train is None:
        raise DatasetError(
            f"{path} has nothing to train on: looked for a data.yaml (YOLO), ImageSets/Main/train.txt (Pascal VOC), "
            "annotations/instances_train*.json, train.json and train/_annotations.coco.json (COCO)"
        )
    return Discovered(kind, list(classes), train, next((splits[name] for name in TEST if name in splits), None))
