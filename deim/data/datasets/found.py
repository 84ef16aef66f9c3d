"""What is found at a path: a format, its splits and its classes."""

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from deim.errors import DatasetError

# What people call the splits, the usual names first. Images for a test are only evaluated on if there are no others.
TRAIN, VALIDATION, TEST = ("train", "training", "trainval", "default"), ("val", "valid", "validation", "dev"), ("test",)
SPLITS = (*TRAIN, *VALIDATION, *TEST)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Split:
    """A call that reads a split.

    Attributes:
        read: Such as :func:`deim.data.coco_dataset`.
        arguments: Its arguments without ``names``.
    """

    read: Callable[..., list[dict]]
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Discovered:
    """A data set that was found.

    Attributes:
        format: Its name, such as "COCO".
        classes: Names, in the order of their indices.
        train: The split to train on.
        test: The split to evaluate on; None if there is none.
        notes: What had to be guessed, one sentence each.
    """

    format: str
    classes: Sequence[str]
    train: Split
    test: Split | None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Format:
    """A format of data sets.

    Attributes:
        name: For messages.
        looks_for: The files that mark the format, as a phrase.
        signs: Lists the files that mark the format at a path; empty if it is another format. It must be fast.
        describe: Makes a description of a path, its signs, and the folder of the images if the user has named one. It
            raises DatasetError if the data set is malformed or has no split to train on.
        takes_images: The images may be in a folder that the user names.
    """

    name: str
    looks_for: str
    signs: Callable[[Path], list[Path]]
    describe: Callable[[Path, list[Path], Path | None], Discovered]
    takes_images: bool = False


def described(
    kind: str, place: Path, classes: Sequence[str], splits: Mapping[str, Split], notes: Sequence[str] = ()
) -> Discovered:
    """Choose the splits to train and to evaluate on by their names.

    Raises:
        DatasetError: There is no class or no split to train on.
    """
    said = list(notes)
    train, test = chosen(splits)
    if not classes:
        raise DatasetError(f"{place} ({kind}) has no classes")
    if train is None:
        raise DatasetError(
            f"{place} ({kind}) has nothing to train on: its splits are {', '.join(splits) or 'none'}, "
            f"and none is called {', '.join(TRAIN)}"
        )
    used(splits, said)
    return Discovered(kind, list(classes), splits[train], None if test is None else splits[test], said)


def chosen(splits: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the names of the splits to train and to evaluate on; None for those that are not there.

    The only split that has no usual name is trained on if no other is.
    """
    names = {name.lower(): name for name in splits}
    train = next((names[name] for name in TRAIN if name in names), None)
    test = next((names[name] for name in (*VALIDATION, *TEST) if name in names), None)
    others = [name for lower, name in names.items() if lower not in SPLITS]
    if train is None and len(others) == 1:
        train = others[0]
    return train, test


def used(splits: Mapping[str, _T], notes: list[str]) -> dict[str, _T]:
    """Return the splits to train and to evaluate on, or all if there is none to train on; note what is not used."""
    train, test = chosen(splits)
    if train is None:
        return dict(splits)
    if test is not None and test.lower() in TEST:
        notes.append(f"there is no split for validation: the split {test!r} is evaluated on")
    unused = [name for name in splits if name not in (train, test)]
    if unused:
        notes.append(f"these splits are not used: {', '.join(unused)}")
    return {name: splits[name] for name in (train, test) if name is not None}


def split_of(path: Path, below: Path) -> str | None:
    """The name of the split that a file belongs to, by its own name or that of a folder above it; None if by none."""
    relative = path.relative_to(below) if path.is_relative_to(below) else Path(path.name)
    words = [part.lower() for part in (relative.stem, *reversed(relative.parent.parts))]
    return next((word for word in words if word in SPLITS), None)


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones; it asks the system once, not for each file."""
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def split_folders(folder: Path) -> dict[str, Path]:
    """The subfolders of a folder that are named like splits, by name in lower case."""
    found = {one.name.lower(): one for one in subfolders(folder)}
    return {name: found[name] for name in SPLITS if name in found}


def what_is_there(place: Path) -> str:
    """Describe a folder in one phrase: its subfolders, and its files counted by suffix, with names if they are few."""
    if not place.is_dir():
        return f"the file {place.name}"
    entries = sorted(place.iterdir())
    folders = [f"{entry.name}/" for entry in entries if entry.is_dir()]
    by_suffix = defaultdict(list)
    for entry in entries:
        if not entry.is_dir():
            by_suffix[entry.suffix.lower() or "no suffix"].append(entry.name)
    files = [
        f"{len(names)} x {suffix}" + (f" ({', '.join(names)})" if len(names) <= _FEW else "")
        for suffix, names in sorted(by_suffix.items(), key=lambda one: -len(one[1]))
    ]
    shown = [*folders[:10], *([f"{len(folders) - 10} more folders"] if len(folders) > 10 else []), *files[:10]]
    return ", ".join(shown) or "nothing"


_FEW = 3
