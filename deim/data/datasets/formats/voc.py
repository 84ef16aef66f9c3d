"""Detection of Pascal VOC datasets: with image lists, or as a folder of XML files."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from deim.data.datasets.found import VALIDATION, Discovered, Format, Split, described, split_folders
from deim.data.datasets.text import read_text, read_xml
from deim.data.datasets.voc import VOC_CLASSES, voc_dataset, voc_folder_dataset
from deim.errors import DatasetError

_NAME = "Pascal VOC"
_ROOT = re.compile(rb"<annotation[\s>]")


def _signs(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    if (place / "ImageSets" / "Main").is_dir():
        return [place / "ImageSets" / "Main"]
    return [folder for _, folder in _folders(place).values()]


def _folders(place: Path) -> dict[str, tuple[Path, Path]]:
    """Return the folder of each split and, in or equal to it, its folder of XML files; ``place`` itself is "all"."""
    found = {}
    for name, folder in (split_folders(place) | {"all": place}).items():
        inside = (folder / one for one in ("Annotations", "annotations", "labels", "xml"))
        with_files = next((one for one in (folder, *inside) if _has_annotations(one)), None)
        if with_files is not None:
            found[name] = (folder, with_files)
    return found


def _has_annotations(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    files = sorted(one for one in folder.iterdir() if one.suffix.lower() == ".xml")
    return any(_ROOT.search(file.read_bytes()[:4096]) for file in files[:3])


def _describe(place: Path, signs: list[Path], images: Path | None) -> Discovered:
    if signs[0].name == "Main":
        return _with_lists(place)
    folders = _folders(place)
    names, _ = _scan(path for _, one in folders.values() for path in one.rglob("*") if path.suffix.lower() == ".xml")
    classes = _ordered(names)
    notes = ["assuming 0-based pixel coordinates, as annotation tools write them; the original Pascal VOC is 1-based"]
    splits = {}
    for name, (folder, with_files) in folders.items():
        inside = (folder / one for one in ("images", "JPEGImages", "Images"))
        root = images or next((one for one in inside if one.is_dir()), folder)
        arguments = {"annotation_root": str(with_files), "image_root": str(root), "class_names": classes}
        splits[name] = Split(voc_folder_dataset, arguments | {"first_pixel": 0})
    return described(_NAME, place, classes, splits, notes)


def _with_lists(place: Path) -> Discovered:
    lists = {file.stem: file for file in (place / "ImageSets" / "Main").glob("*.txt")}
    names, lowest = _scan((place / "Annotations").rglob("*.xml"))
    notes = []
    label_map = place / "labelmap.txt"
    by_tool = label_map.is_file() or "default" in {name.lower() for name in lists} or lowest < 1
    if by_tool:
        notes.append(
            "assuming 0-based pixel coordinates, as annotation tools write them; the original Pascal VOC is 1-based"
        )
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
    """Drop Pascal VOC's per-class image lists, such as ``cat_train.txt``."""
    starts = tuple(f"{name}_" for name in classes)
    return {name: split for name, split in splits.items() if not name.startswith(starts)}


def _labels_of(label_map: Path) -> list[str]:
    """Read the classes of a CVAT label map (lines ``name:color:parts:actions``), without the background."""
    lines = [line.split(":")[0].strip() for line in read_text(label_map).splitlines() if not line.startswith("#")]
    names = [name for name in lines if name and name != "background"]
    if not names:
        raise DatasetError(f"{label_map} lists no classes")
    return names


def _ordered(names: set[str]) -> list[str]:
    """Sort names in VOC's class order if all are VOC classes, otherwise alphabetically."""
    return [name for name in VOC_CLASSES if name in names] if names <= set(VOC_CLASSES) else sorted(names)


def _scan(files: Iterable[Path]) -> tuple[set[str], float]:
    """Return the class names that occur in the objects, and the lowest left or upper edge."""
    names, lowest = set(), float("inf")
    for file in tqdm(files, "reading class names", delay=2, mininterval=2, unit="file"):
        try:
            for found in read_xml(file).iter("object"):
                names.add((found.findtext("name") or "").strip())
                edges = (float(found.findtext(f"bndbox/{edge}") or "inf") for edge in ("xmin", "ymin"))
                lowest = min(lowest, *edges)
        except (DatasetError, ValueError):  # reported with file and line when the split is read
            continue
    return names, lowest


VOC = Format(
    _NAME,
    "ImageSets/Main/train.txt, or XML files in the folder, in Annotations/ or in train/",
    _signs,
    _describe,
    takes_images=True,
)
