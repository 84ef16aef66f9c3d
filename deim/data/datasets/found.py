"""Detected datasets: format, splits and classes."""

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from deim.errors import DatasetError

# Recognized split names, in order of preference. The test split is evaluated on only if no validation split exists.
TRAIN, VALIDATION, TEST = ("train", "training", "trainval", "default"), ("val", "valid", "validation", "dev"), ("test",)
SPLITS = (*TRAIN, *VALIDATION, *TEST)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Split:
    """A call that reads a split.

    Attributes:
        read: reader, such as :func:`deim.data.coco_dataset`.
        arguments: arguments of the reader, without ``names``.
    """

    read: Callable[..., list[dict]]
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Discovered:
    """A detected dataset.

    Attributes:
        format: name of the format, such as "COCO".
        classes: class names in index order.
        train: split to train on.
        test: split to evaluate on; None if there is none.
        notes: assumptions made, one sentence each.
    """

    format: str
    classes: Sequence[str]
    train: Split
    test: Split | None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Format:
    """A dataset format.

    Attributes:
        name: name used in messages.
        looks_for: phrase that describes the files that identify the format.
        signs: returns the files at a path that identify the format; empty for another format. Must be fast.
        describe: returns the dataset description, given the path, the files from ``signs`` and the image folder
            specified by the user, if any. Raises DatasetError if the dataset is malformed or has no split to train on.
        takes_images: whether the user may specify the image folder.
    """

    name: str
    looks_for: str
    signs: Callable[[Path], list[Path]]
    describe: Callable[[Path, list[Path], Path | None], Discovered]
    takes_images: bool = False


def described(
    kind: str, place: Path, classes: Sequence[str], splits: Mapping[str, Split], notes: Sequence[str] = ()
) -> Discovered:
    """Select the splits for training and evaluation by their names.

    Raises:
        DatasetError: if the dataset has no classes or no split to train on.
    """
    said = list(notes)
    train, test = chosen(splits)
    if not classes:
        raise DatasetError(f"{place} ({kind}) has no classes")
    if train is None:
        raise DatasetError(
            f"{place} ({kind}) has no training split: found {', '.join(splits) or 'no splits'}, "
            f"expected one named {', '.join(TRAIN)}"
        )
    used(splits, said)
    return Discovered(kind, list(classes), splits[train], None if test is None else splits[test], said)


def chosen(splits: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the names of the training and the evaluation split; None for a missing one.

    Without a split of a recognized training name, the only split of an unrecognized name is used for training.
    """
    names = {name.lower(): name for name in splits}
    train = next((names[name] for name in TRAIN if name in names), None)
    test = next((names[name] for name in (*VALIDATION, *TEST) if name in names), None)
    others = [name for lower, name in names.items() if lower not in SPLITS]
    if train is None and len(others) == 1:
        train = others[0]
    return train, test


def used(splits: Mapping[str, _T], notes: list[str]) -> dict[str, _T]:
    """Return the training and evaluation splits, or all splits if none is for training; add a note on unused splits."""
    train, test = chosen(splits)
    if train is None:
        return dict(splits)
    if test is not None and test.lower() in TEST:
        notes.append(f"no validation split found; evaluating on the split {test!r}")
    unused = [name for name in splits if name not in (train, test)]
    if unused:
        notes.append(f"unused splits: {', '.join(unused)}")
    return {name: splits[name] for name in (train, test) if name is not None}


def split_of(path: Path, below: Path) -> str | None:
    """Return the split that the name of a file or of one of its parent folders indicates; None if there is none."""
    relative = path.relative_to(below) if path.is_relative_to(below) else Path(path.name)
    words = [part.lower() for part in (relative.stem, *reversed(relative.parent.parts))]
    return next((word for word in words if word in SPLITS), None)


def subfolders(folder: Path) -> list[Path]:
    """List the subfolders of a folder, sorted, without hidden ones, in one directory scan."""
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def split_folders(folder: Path) -> dict[str, Path]:
    """Return the subfolders that are named like splits, by lowercase name."""
    found = {one.name.lower(): one for one in subfolders(folder)}
    return {name: found[name] for name in SPLITS if name in found}


def what_is_there(place: Path) -> str:
    """Describe the contents of a folder in one phrase: subfolders, and file counts by suffix, with names if few."""
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
