"""Detection of YOLO labels without a description file: Label Studio, LabelImg, and folders of images and labels."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from deim.data.datasets.found import Discovered, Format, Split, described, split_folders
from deim.data.datasets.image_files import is_image
from deim.data.datasets.text import names_of, read_text
from deim.data.datasets.yolo import highest_class, yolo_files_dataset

_NAME = "YOLO labels"
_CLASS_FILES = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt")


def _signs(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    return [place / entry for entries in _splits(place).values() for entry in entries]


def _splits(place: Path) -> dict[str, list[str]]:
    """Return the image folders or image lists of each split, relative to ``place``."""
    if (place / "images").is_dir() and _has_labels(place / "labels"):
        lists = {path.stem.removeprefix("autosplit_"): path.name for path in sorted(place.glob("autosplit_*.txt"))}
        if lists:
            return {name: [path] for name, path in lists.items()}
        folders = split_folders(place / "images")
        return {name: [f"images/{one.name}"] for name, one in folders.items()} or {"all": ["images"]}
    found = {}
    for name, folder in split_folders(place).items():
        if (folder / "images").is_dir() and _has_labels(folder / "labels"):
            found[name] = [f"{folder.name}/images"]
        elif _has_labels_beside(folder):
            found[name] = [folder.name]
    return found or ({"all": ["."]} if _has_labels_beside(place) else {})


def _has_labels(folder: Path) -> bool:
    """Return whether a folder or one of its split subfolders contains labels."""
    if not folder.is_dir():
        return False
    places = [folder, *split_folders(folder).values()]
    return any(_are_labels(path for path in sorted(one.iterdir()) if _is_text(path)) for one in places)


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


def _describe(place: Path, signs: list[Path], images: Path | None) -> Discovered:
    entries = _splits(place)
    notes = ["images without a label file are treated as images without objects"]
    classes = _classes(place, entries, notes)
    splits = {
        name: Split(yolo_files_dataset, {"root": str(place), "images": inside, "class_names": classes})
        for name, inside in entries.items()
    }
    return described(_NAME, place, classes, splits, notes)


def _classes(place: Path, entries: dict[str, list[str]], notes: list[str]) -> Sequence[str]:
    folders = [place, place / "labels", *(place / one for inside in entries.values() for one in inside)]
    folders += [Path(str(one).replace("images", "labels")) for one in folders[2:]]
    files = [folder / name for folder in folders for name in _CLASS_FILES]
    file = next((one for one in files if one.is_file()), None)
    if file is not None:
        return names_of(file)
    places = [place / one for inside in entries.values() for one in inside]
    count = highest_class(places, place) + 1
    notes.append(f"no classes.txt found; using the class numbers in the labels as names of {count} classes")
    return [str(number) for number in range(count)]


YOLO_FOLDER = Format(
    _NAME, "images/ and labels/, or images with .txt labels beside them, and classes.txt", _signs, _describe
)
