"""Finds Pascal VOC: with lists of images, or as a folder of XML files."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from deim.data.datasets.found import VALIDATION, Discovered, Format, Split, described, split_folders
from deim.data.datasets.text import read_text
from deim.data.datasets.voc import VOC_CLASSES, voc_dataset, voc_folder_dataset
from deim.errors import DatasetError

_NAME = "Pascal VOC"
_ROOT = re.compile(rb"<annotation[\s>]")


def _signs(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    if (place / "ImageSets" / "Main").is_dir():
        return [place / "ImageSets" / "Main"]
    return [*_folders(place).values()]


def _folders(place: Path) -> dict[str, Path]:
    """The folders of XML files, by split; the only one is "all"."""
    found = {}
    for name, folder in (split_folders(place) or {"all": place}).items():
        for one in (folder, *(folder / inside for inside in ("Annotations", "annotations", "labels", "xml"))):
            if _has_annotations(one):
                found[name] = one
                break
    if not found and any(_has_annotations(place / "Annotations" / name) for name in split_folders_of(place)):
        inside = split_folders(place / "Annotations")
        found = {name: one for name, one in inside.items() if _has_annotations(one)}
    return found


def split_folders_of(place: Path) -> Sequence[str]:
    """The names of the split folders in a folder's ``Annotations``."""
    return list(split_folders(place / "Annotations")) if (place / "Annotations").is_dir() else []


def _has_annotations(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    files = sorted(one for one in folder.iterdir() if one.suffix.lower() == ".xml")
    return any(_ROOT.search(file.read_bytes()[:4096]) for file in files[:3])


def _describe(place: Path, signs: list[Path], images: Path | None) -> Discovered:
    if signs[0].name == "Main":
        return _with_lists(place)
    folders = _folders(place)
    names, _ = _scan(path for folder in folders.values() for path in folder.rglob("*") if path.suffix.lower() == ".xml")
    classes = _ordered(names)
    notes = ["boxes count pixels from 0, as annotation tools write them; Pascal VOC itself counts from 1"]
    splits = {}
    for name, folder in folders.items():
        root = images or _image_root(folder)
        arguments = {"annotation_root": str(folder), "image_root": str(root), "class_names": classes}
        splits[name] = Split(voc_folder_dataset, arguments | {"first_pixel": 0})
    return described(_NAME, place, classes, splits, notes)


def _image_root(folder: Path) -> Path:
    """The folder of the images beside a folder of XML files, or this folder itself."""
    beside = [folder.parent / name for name in ("images", "JPEGImages", "Images")]
    return next((one for one in beside if one.is_dir()), folder) if folder.name.lower() != "train" else folder


def _with_lists(place: Path) -> Discovered:
    lists = {file.stem: file for file in (place / "ImageSets" / "Main").glob("*.txt")}
    names, lowest = _scan((place / "Annotations").rglob("*.xml"))
    notes = []
    label_map = place / "labelmap.txt"
    by_tool = label_map.is_file() or "default" in {name.lower() for name in lists} or lowest < 1
    if by_tool:
        notes.append("boxes count pixels from 0, as annotation tools write them; Pascal VOC itself counts from 1")
    classes = _labels_of(label_map) if label_map.is_file() else _ordered(names)
    splits = {}
    for name in lists:
        arguments: dict[str, Any] = {"root": str(place), "split": name, "class_names": classes}
        if by_tool:
            arguments |= {"first_pixel": 0, "unlabeled_allowed": True}
        is_evaluated = name.lower() in (*VALIDATION, "test")
        splits[name] = Split(voc_dataset, arguments | ({"ignore_difficult": True} if is_evaluated else {}))
    return described(_NAME, place, classes, _without_class_lists(splits, classes), notes)


def _without_class_lists(splits: dict[str, Split], classes: Sequence[str]) -> dict[str, Split]:
    """Without the lists that Pascal VOC has for each class, such as ``cat_train.txt``."""
    starts = tuple(f"{name}_" for name in classes)
    return {name: split for name, split in splits.items() if not name.startswith(starts)}


def _labels_of(label_map: Path) -> list[str]:
    """The classes of a label map of CVAT: lines ``name:color:parts:actions``, without the background."""
    lines = [line.split(":")[0].strip() for line in read_text(label_map).splitlines() if not line.startswith("#")]
    names = [name for name in lines if name and name != "background"]
    if not names:
        raise DatasetError(f"{label_map} lists no classes")
    return names


def _ordered(names: set[str]) -> list[str]:
    """In VOC's order if all names are VOC's, else by the alphabet."""
    return [name for name in VOC_CLASSES if name in names] if names <= set(VOC_CLASSES) else sorted(names)


def _scan(files: Iterable[Path]) -> tuple[set[str], float]:
    """The names that objects have, and the lowest left or upper edge."""
    names, lowest = set(), float("inf")
    for file in tqdm(files, "reading class names", delay=2, mininterval=2, unit="file"):
        try:
            for found in ET.parse(file).iter("object"):
                names.add((found.findtext("name") or "").strip())
                edges = (float(found.findtext(f"bndbox/{edge}") or "inf") for edge in ("xmin", "ymin"))
                lowest = min(lowest, *edges)
        except (ET.ParseError, ValueError, OSError):  # told with its place when the split is read
            continue
    return names, lowest


VOC = Format(
    _NAME,
    "ImageSets/Main/train.txt, or XML files in the folder, in Annotations/ or in train/",
    _signs,
    _describe,
)
