"""Detection of COCO files, their images and their splits."""

import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deim.data.datasets.checks import is_box
from deim.data.datasets.coco import coco_dataset
from deim.data.datasets.formats.coco_export import Category, categories_of, coco_export_dataset, read_lists
from deim.data.datasets.found import (
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    Discovered,
    Format,
    Split,
    described,
    subfolders,
    used,
)
from deim.data.datasets.image_files import ImageFiles
from deim.data.datasets.text import is_plain_utf8
from deim.errors import DatasetError

# A folder with more JSON files has one file per image, so it is not in COCO format.
_MOST_FILES = 50
_KEYS = (b'"images"', b'"annotations"', b'"categories"')
_OTHER_TASKS = ("person_keypoints", "panoptic", "stuff", "captions", "image_info")
# Number of images that are looked up to find the image folder.
_SAMPLE = 50


@dataclass(frozen=True)
class _File:
    """Properties of an annotation file that are needed to determine the classes."""

    path: Path
    image_root: Path
    categories: Sequence[Category]
    used: frozenset[str]
    is_plain: bool


def _signs(place: Path) -> list[Path]:
    if place.is_file():
        return [place] if place.suffix.lower() == ".json" and _is_coco(place) else []
    return list(_files(place))


def _files(folder: Path) -> Iterator[Path]:
    places = [folder, *subfolders(folder)]
    places += [one / "annotations" for one in places[1:] if one.name.lower() in SPLITS]
    for place in places[:_MOST_FILES]:
        files = sorted(place.glob("*.json")) if place.is_dir() else []
        yield from (file for file in files if len(files) <= _MOST_FILES and _is_coco(file))


def _is_coco(file: Path) -> bool:
    """Return whether a file has a typical COCO name or contains the COCO keys, without parsing the JSON."""
    if file.name == "_annotations.coco.json" or file.stem.startswith("instances_"):
        return True
    with file.open("rb") as opened:
        if not file.stat().st_size:
            return file.stem.lower() in SPLITS
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return file.stem.lower() in SPLITS or all(content.find(key) >= 0 for key in _KEYS)


def _describe(place: Path, signs: list[Path], images: Path | None) -> Discovered:
    notes: list[str] = []
    if place.is_file():
        chosen = _with_sibling(place, notes)
        folder = place.parent.parent if place.parent.name.lower() in ("annotations", "labels") else place.parent
        folder = folder.parent if folder.name.lower() in SPLITS else folder
    else:
        chosen, folder = _by_split(signs, place, notes), place
    # Only used splits are read: files of other splits, such as COCO's test split, may have no annotations.
    files = {name: _look_at(path, name, folder, images) for name, path in used(chosen, notes).items()}
    classes = _classes(files, notes)
    splits = {}
    for name, file in files.items():
        arguments: dict[str, Any] = {"json_file": str(file.path), "image_root": str(file.image_root)}
        if file.is_plain and [category.name for category in file.categories] == classes:
            splits[name] = Split(coco_dataset, arguments)
        else:
            splits[name] = Split(coco_export_dataset, arguments | {"class_names": classes})
    return described("COCO", place, classes, splits, notes)


def _with_sibling(file: Path, notes: list[str]) -> dict[str, Path]:
    """Return a file as the training split, with the matching validation file if there is one."""
    for written in ("training", "train"):
        for name in (*VALIDATION, *TEST):
            named = file.with_name(re.sub(written, name, file.name, flags=re.IGNORECASE))
            if named != file and named.is_file():
                notes.append(f"using {named.name} next to {file.name} for validation, because of its name")
                return {"train": file, name: named}
            beside = file.parent.parent / name / file.name
            if file.parent.name.lower() == written and beside.is_file():
                notes.append(f"using {beside} for validation, because of its name")
                return {"train": file, name: beside}
    return {"train": file}


def _by_split(files: Sequence[Path], folder: Path, notes: list[str]) -> dict[str, Path]:
    """Return the file of each split, by the words in its name or in the names of its parent folders."""
    groups: dict[str, list[Path]] = {}
    for file in sorted(files, key=lambda one: _rank(one, folder)):
        groups.setdefault(_split_name(file, folder), []).append(file)
    for name, group in groups.items():
        others = [one for one in group[1:] if not one.stem.startswith(_OTHER_TASKS)]
        if others:
            told = ", ".join(str(one.relative_to(folder)) for one in others)
            notes.append(f"using {group[0].relative_to(folder)} for the split {name!r}; ignoring {told}")
    return {name: group[0] for name, group in groups.items()}


def _split_name(file: Path, folder: Path) -> str:
    parts = [file.stem, *reversed(file.relative_to(folder).parts[:-1])]
    words = [word for part in parts for word in re.split(r"[^a-z]+", part.lower())]
    return next((word for word in words if word in SPLITS), "all")


def _rank(file: Path, folder: Path) -> tuple:
    other = file.stem.startswith(_OTHER_TASKS)
    return other, not file.stem.startswith("instances"), file.parent != folder / "annotations", str(file)


def _look_at(file: Path, split: str, folder: Path, images: Path | None) -> _File:
    lists = read_lists(file)
    categories = categories_of(lists, file)
    root = _image_root(folder, file, split, lists["images"], images)
    ids = frozenset(str(one.get("category_id")) for one in lists["annotations"] if isinstance(one, dict))
    return _File(file, root, categories, ids, _is_plain(file, lists, categories, root))


def _is_plain(file: Path, lists: Mapping[str, list], categories: Sequence[Category], root: Path) -> bool:
    """Return whether detectron2 can read the file unchanged."""
    files = ImageFiles(root)
    entries = (*lists["images"], *lists["annotations"], *lists["categories"])
    return (
        all(isinstance(entry, dict) and type(entry.get("id")) is int for entry in entries)
        and len({category.name for category in categories}) == len(categories)
        and all(type(one.get("category_id")) is int and is_box(one.get("bbox")) for one in lists["annotations"])
        and all(one.get(side) for one in lists["images"] for side in ("height", "width"))
        and all(isinstance(one.get("file_name"), str) and files.holds(one["file_name"]) for one in lists["images"])
        and not any(one.get("ignore") for one in lists["annotations"])
        and is_plain_utf8(file)
    )


def _classes(files: Mapping[str, _File], notes: list[str]) -> list[str]:
    """Return the class names of all splits, in the order of the training split."""
    order = sorted(files, key=lambda name: (*TRAIN, *VALIDATION, *TEST, "all").index(name))
    classes: dict[str, str] = {}
    parents = _projects(files)
    for parent in sorted(parents):
        notes.append(f"ignoring the category {parent!r}, which Roboflow adds for the whole project")
    for split in order:
        for category in files[split].categories:
            classes.setdefault(category.name, split)
    names = [name for name in classes if name not in parents]
    late = [name for name in names if classes[name] != order[0]]
    if late:
        notes.append(f"classes missing in the split {order[0]!r} but present in another split: {', '.join(late)}")
    return names


def _projects(files: Mapping[str, _File]) -> set[str]:
    """Return Roboflow's project categories: supercategories of other categories that no object has."""
    parents, used = set(), set()
    for file in files.values():
        above = {category.parent for category in file.categories}
        parents |= {one.name for one in file.categories if one.parent == "none" and one.name in above}
        used |= {one.name for one in file.categories if one.key in file.used}
    return parents - used


def _image_root(folder: Path, file: Path, split: str, images: Sequence[Any], given: Path | None) -> Path:
    """Return the image folder: the candidate in which most of the listed images are found."""
    written = file.stem.removeprefix("instances_")
    names = [one.get("file_name") for one in images if isinstance(one, dict)]
    sample = [name for name in names if isinstance(name, str)][:: max(len(names) // _SAMPLE, 1)]
    if given is not None:
        places = [*(given / name for name in (written, split)), given]
    else:
        inside = (written, f"images/{written}", split, f"images/{split}", "images", f"{split}/images", f"{split}/data")
        places = [*(folder / name for name in inside), file.parent / "data", folder / "data", file.parent, folder]
    places = [place for place in dict.fromkeys(places) if place.is_dir()]
    for count in (ImageFiles.holds, ImageFiles.find):
        hits = {place: _hits(count, place, sample) for place in places}
        best = max(places, key=lambda place: hits[place], default=None)
        if best is not None and hits[best]:
            return best
    first = sample[0] if sample else None
    raise DatasetError(
        f"the first image of {file}, {first}, was not found in {', '.join(map(str, places))}; set the image folder "
        "by --image-root"
    )


def _hits(count: Any, place: Path, sample: Sequence[str]) -> int:
    files = ImageFiles(place)
    return sum(bool(count(files, name)) for name in sample)


COCO = Format(
    "COCO",
    "a JSON file with images, annotations and categories (such as annotations/instances_train.json, train.json, "
    "result.json or train/_annotations.coco.json)",
    _signs,
    _describe,
    takes_images=True,
)
