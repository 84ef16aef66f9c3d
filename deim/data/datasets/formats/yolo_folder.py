"""Detection of YOLO labels without a description file: Label Studio, LabelImg, and folders of images and labels."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from deim.data.datasets.dataset_format import (
    SPLITS,
    DiscoveredDataset,
    Format,
    Split,
    assemble_dataset,
    find_split_folders,
)
from deim.data.datasets.image_files import is_image
from deim.data.datasets.text import read_class_names, read_text
from deim.data.datasets.yolo import find_highest_class, label_file, yolo_files_dataset

_NAME = "YOLO labels"
_CLASS_FILES = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt")


def _find_matches(dataset_path: Path) -> list[Path]:
    if not dataset_path.is_dir():
        return []
    return [dataset_path / entry for entries in _splits(dataset_path).values() for entry in entries]


def _splits(dataset_path: Path) -> dict[str, list[str]]:
    """Return the image folders or image lists of each split, relative to ``dataset_path``."""
    if (dataset_path / "images").is_dir() and _has_labels(dataset_path / "labels"):
        lists = {
            path.stem.removeprefix("autosplit_"): path.name for path in sorted(dataset_path.glob("autosplit_*.txt"))
        } or {name: f"{name}.txt" for name in SPLITS if _is_image_list(dataset_path / f"{name}.txt")}
        if lists:
            return {name: [path] for name, path in lists.items()}
        folders = find_split_folders(dataset_path / "images")
        return {name: [f"images/{folder.name}"] for name, folder in folders.items()} or {"all": ["images"]}
    sources = {}
    for name, folder in find_split_folders(dataset_path).items():
        if (folder / "images").is_dir() and _has_labels(folder / "labels"):
            sources[name] = [f"{folder.name}/images"]
        elif _has_labels_beside(folder):
            sources[name] = [folder.name]
    return sources or ({"all": ["."]} if _has_labels_beside(dataset_path) else {})


def _is_image_list(path: Path) -> bool:
    """Return whether a file lists images, by its first line."""
    if not path.is_file():
        return False
    with path.open(encoding="latin-1") as file:
        return is_image(Path(file.readline().strip()))


def _has_labels(folder: Path) -> bool:
    """Return whether a folder or one of its split subfolders contains labels."""
    if not folder.is_dir():
        return False
    folders = [folder, *find_split_folders(folder).values()]
    return any(_are_labels(path for path in sorted(subfolder.iterdir()) if _is_text(path)) for subfolder in folders)


def _has_labels_beside(folder: Path) -> bool:
    entries = sorted(folder.iterdir())
    stems = {path.stem for path in entries if is_image(path)}
    return _are_labels(path for path in entries if _is_text(path) and path.stem in stems)


def _is_text(path: Path) -> bool:
    return path.suffix.lower() == ".txt" and path.name not in _CLASS_FILES


def _are_labels(paths: Iterable[Path]) -> bool:
    """Return whether the first non-empty file starts with a line of numbers."""
    for path in paths:
        words = read_text(path).split("\n", 1)[0].split()
        if words:
            return len(words) >= 5 and all(_is_number(word) for word in words)
    return False


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _describe(dataset_path: Path, matches: list[Path], image_root: Path | None) -> DiscoveredDataset:
    entries = _splits(dataset_path)
    notes = ["images without a label file are treated as images without objects"]
    classes = _classes(dataset_path, entries, notes)
    splits = {
        name: Split(yolo_files_dataset, {"root": str(dataset_path), "images": sources, "class_names": classes})
        for name, sources in entries.items()
    }
    return assemble_dataset(_NAME, dataset_path, classes, splits, notes)


def _classes(dataset_path: Path, entries: dict[str, list[str]], notes: list[str]) -> Sequence[str]:
    source_paths = [dataset_path / source for sources in entries.values() for source in sources]
    label_folders = [label_file(path / "any.jpg").parent for path in source_paths]
    folders = [dataset_path, dataset_path / "labels", *source_paths, *label_folders]
    class_file = _find_class_file(folders)
    if class_file is not None:
        notes.append(f"class names are read from {class_file}")
        return read_class_names(class_file)
    count = find_highest_class(source_paths, dataset_path) + 1
    notes.append(f"no classes.txt found; using the class numbers in the labels as names of {count} classes")
    return [str(number) for number in range(count)]


def _find_class_file(folders: Sequence[Path]) -> Path | None:
    """Return the file of the class names, or None.

    Darknet projects choose the name of this file, such as ``aerial.names``: it is used if the folder has no other file with
    this suffix.
    """
    for folder in folders:
        for name in _CLASS_FILES:
            if (folder / name).is_file():
                return folder / name
    for folder in folders:
        files = sorted(folder.glob("*.names"))
        if len(files) == 1:
            return files[0]
    return None


YOLO_FOLDER = Format(
    _NAME, "images/ and labels/, or images with .txt labels beside them, and classes.txt", _find_matches, _describe
)
