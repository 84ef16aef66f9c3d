"""Detection of Pascal VOC datasets: with image lists, or as a folder of XML files."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from deim.data.datasets.dataset_format import (
    VALIDATION,
    DiscoveredDataset,
    Format,
    Split,
    assemble_dataset,
    find_split_folders,
)
from deim.data.datasets.text import read_text, read_xml
from deim.data.datasets.voc import VOC_CLASSES, voc_dataset, voc_folder_dataset
from deim.errors import DatasetError

_NAME = "Pascal VOC"
_ROOT = re.compile(rb"<annotation[\s>]")


def _find_matches(dataset_path: Path) -> list[Path]:
    if not dataset_path.is_dir():
        return []
    if (dataset_path / "ImageSets" / "Main").is_dir():
        return [dataset_path / "ImageSets" / "Main"]
    return [folder for _, folder in _folders(dataset_path).values()]


def _folders(dataset_path: Path) -> dict[str, tuple[Path, Path]]:
    """Return (folder, folder of its XML files) for each split; the split "all" is ``dataset_path`` itself."""
    folders = {}
    for name, folder in (find_split_folders(dataset_path) | {"all": dataset_path}).items():
        subfolders = (folder / candidate for candidate in ("Annotations", "annotations", "annots", "labels", "xml"))
        xml_folder = next((candidate for candidate in (folder, *subfolders) if _has_annotations(candidate)), None)
        if xml_folder is not None:
            folders[name] = (folder, xml_folder)
    return folders


def _has_annotations(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".xml")
    return any(_ROOT.search(file.read_bytes()[:4096]) for file in files[:3])


def _describe(dataset_path: Path, matches: list[Path], image_root: Path | None) -> DiscoveredDataset:
    if matches[0] == dataset_path / "ImageSets" / "Main":
        if image_root is not None:
            raise DatasetError(
                f"{dataset_path} has image lists in ImageSets/Main, so its images are in JPEGImages; remove --image-root"
            )
        return _describe_with_image_lists(dataset_path)
    folders = _folders(dataset_path)
    names, _ = _scan_objects(
        path for _, candidate in folders.values() for path in candidate.rglob("*") if path.suffix.lower() == ".xml"
    )
    classes = _sort_classes(names)
    notes = ["assuming 0-based pixel coordinates, as annotation tools write them; the original Pascal VOC is 1-based"]
    splits = {}
    for name, (folder, xml_folder) in folders.items():
        subfolders = (folder / candidate for candidate in ("images", "JPEGImages", "Images"))
        root = image_root or next((candidate for candidate in subfolders if candidate.is_dir()), folder)
        arguments = {"annotation_root": str(xml_folder), "image_root": str(root), "class_names": classes}
        splits[name] = Split(voc_folder_dataset, arguments | {"first_pixel": 0})
    return assemble_dataset(_NAME, dataset_path, classes, splits, notes)


def _describe_with_image_lists(dataset_path: Path) -> DiscoveredDataset:
    lists = {file.stem: file for file in (dataset_path / "ImageSets" / "Main").glob("*.txt")}
    names, lowest = _scan_objects((dataset_path / "Annotations").rglob("*.xml"))
    notes = []
    label_map = dataset_path / "labelmap.txt"
    is_tool_export = label_map.is_file() or "default" in {name.lower() for name in lists} or lowest < 1
    if is_tool_export:
        notes.append(
            "assuming 0-based pixel coordinates, as annotation tools write them; the original Pascal VOC is 1-based"
        )
    classes = _read_label_map(label_map) if label_map.is_file() else _sort_classes(names)
    splits = {}
    for name in lists:
        arguments: dict[str, Any] = {"root": str(dataset_path), "split": name, "class_names": classes}
        if is_tool_export:
            arguments |= {"first_pixel": 0, "unlabeled_allowed": True}
        is_evaluated = name.lower() in (*VALIDATION, "test")
        splits[name] = Split(voc_dataset, arguments | ({"ignore_difficult": True} if is_evaluated else {}))
    return assemble_dataset(_NAME, dataset_path, classes, _drop_class_lists(splits, classes), notes)


def _drop_class_lists(splits: dict[str, Split], classes: Sequence[str]) -> dict[str, Split]:
    """Drop Pascal VOC's per-class image lists, such as ``cat_train.txt``."""
    starts = tuple(f"{name}_" for name in classes)
    return {name: split for name, split in splits.items() if not name.startswith(starts)}


def _read_label_map(label_map: Path) -> list[str]:
    """Read the classes of a CVAT label map (lines ``name:color:parts:actions``), without the background."""
    lines = [line.split(":")[0].strip() for line in read_text(label_map).splitlines() if not line.startswith("#")]
    names = [name for name in lines if name and name != "background"]
    if not names:
        raise DatasetError(f"{label_map} lists no classes")
    return names


def _sort_classes(names: set[str]) -> list[str]:
    """Sort names in VOC's class order if all are VOC classes, otherwise alphabetically."""
    return [name for name in VOC_CLASSES if name in names] if names <= set(VOC_CLASSES) else sorted(names)


def _scan_objects(files: Iterable[Path]) -> tuple[set[str], float]:
    """Return the class names that occur in the objects, and the lowest left or upper edge."""
    names: set[str] = set()
    lowest = float("inf")
    for file in tqdm(files, "reading class names", delay=2, mininterval=2, unit="file"):
        try:
            for element in read_xml(file).iter("object"):
                name = (element.findtext("name") or "").strip()
                names |= {name} - {""}  # an object without a name is reported when the split is read
                edges = (float(element.findtext(f"bndbox/{edge}") or "inf") for edge in ("xmin", "ymin"))
                lowest = min(lowest, *edges)
        except (DatasetError, ValueError):  # reported with file and line when the split is read
            continue
    return names, lowest


VOC = Format(
    _NAME,
    "ImageSets/Main/train.txt, or XML files in the folder, in Annotations/ or in train/",
    _find_matches,
    _describe,
    accepts_image_root=True,
)
