"""Dataset formats, and the splits and classes of a discovered dataset."""

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from deim.data.datasets.keypoints import KeypointDefinition
from deim.errors import DatasetError

# Recognized split names, in order of preference. The test split is evaluated on only if no validation split exists.
TRAIN, VALIDATION, TEST = ("train", "training", "trainval", "default"), ("val", "valid", "validation", "dev"), ("test",)
SPLITS = (*TRAIN, *VALIDATION, *TEST)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Split:
    """Reader of a split, with its arguments.

    Attributes:
        read: reader, such as :func:`deim.data.coco_dataset`.
        arguments: arguments of the reader, without ``names``.
        annotated: reader with its arguments to use instead if masks or keypoints are read; None if it is the same.
    """

    read: Callable[..., list[dict]]
    arguments: dict[str, Any] = field(default_factory=dict)
    annotated: "Split | None" = None


@dataclass(frozen=True)
class DiscoveredDataset:
    """Dataset discovered at a path.

    Attributes:
        format: name of the format, such as "COCO".
        classes: class names in index order.
        train: split to train on.
        test: split to evaluate on; None if there is none.
        notes: assumptions made, one sentence each.
        keypoints: names and connections of the keypoints; None if there are none.
    """

    format: str
    classes: Sequence[str]
    train: Split
    test: Split | None
    notes: Sequence[str] = ()
    keypoints: KeypointDefinition | None = None


@dataclass(frozen=True)
class Format:
    """Dataset format.

    Attributes:
        name: name used in messages.
        expected_files: phrase that describes the files that identify the format.
        find_matches: returns the files or folders at a path that identify the format; an empty list if the path is
            not in this format. Must be fast.
        describe: returns the dataset, given its path, the result of ``find_matches`` and the image folder specified by
            the user, if any. Raises DatasetError if the dataset is malformed or has no split to train on.
        accepts_image_root: whether the user may specify the image folder.
    """

    name: str
    expected_files: str
    find_matches: Callable[[Path], list[Path]]
    describe: Callable[[Path, list[Path], Path | None], DiscoveredDataset]
    accepts_image_root: bool = False


def assemble_dataset(
    format_name: str,
    path: Path,
    classes: Sequence[str],
    splits: Mapping[str, Split],
    notes: Sequence[str] = (),
    keypoints: KeypointDefinition | None = None,
) -> DiscoveredDataset:
    """Return a dataset; its splits for training and evaluation are selected by name.

    Args:
        format_name: name of the format.
        path: path of the dataset, for messages.
        classes: class names in index order.
        splits: all splits, by name.
        notes: assumptions made, one sentence each.
        keypoints: names and connections of the keypoints; None if there are none.

    Raises:
        DatasetError: if the dataset has no classes or no split to train on.
    """
    all_notes = list(notes)
    train, test = select_splits(splits)
    if not classes:
        raise DatasetError(f"{path} ({format_name}) has no classes")
    if train is None:
        raise DatasetError(
            f"{path} ({format_name}) has no training split: found {', '.join(splits) or 'no splits'}, "
            f"expected one named {', '.join(TRAIN)}"
        )
    keep_selected_splits(splits, all_notes)
    all_notes = list(dict.fromkeys(all_notes))  # a reader may have selected the splits, and noted that, before
    return DiscoveredDataset(
        format_name, list(classes), splits[train], None if test is None else splits[test], all_notes, keypoints
    )


def select_splits(splits: Mapping[str, Any]) -> tuple[Any, Any]:
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


def keep_selected_splits(splits: Mapping[str, _T], notes: list[str]) -> dict[str, _T]:
    """Return the training and evaluation splits, or all splits if none is for training; add a note on unused splits."""
    train, test = select_splits(splits)
    if train is None:
        return dict(splits)
    if test is not None and test.lower() in TEST:
        notes.append(f"no validation split found; evaluating on the split {test!r}")
    unused = [name for name in splits if name not in (train, test)]
    if unused:
        notes.append(f"unused splits: {', '.join(unused)}")
    return {name: splits[name] for name in (train, test) if name is not None}


def infer_split(path: Path, root: Path) -> str | None:
    """Return the split that the name of a file or of a folder between ``root`` and the file indicates.

    Returns:
        the lowercase split name; None if no name indicates a split.
    """
    relative = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    words = [part.lower() for part in (relative.stem, *reversed(relative.parent.parts))]
    return next((word for word in words if word in SPLITS), None)


def list_subfolders(folder: Path) -> list[Path]:
    """List the subfolders of a folder, sorted, without hidden ones, in one directory scan."""
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def find_split_folders(folder: Path) -> dict[str, Path]:
    """Return the subfolders that are named like splits, by lowercase name."""
    by_name = {subfolder.name.lower(): subfolder for subfolder in list_subfolders(folder)}
    return {name: by_name[name] for name in SPLITS if name in by_name}


def summarize_folder(path: Path) -> str:
    """Describe the contents of a folder in one phrase: subfolders, and file counts by suffix, with names if few."""
    if not path.is_dir():
        return f"the file {path.name}"
    entries = sorted(path.iterdir())
    folders = [f"{entry.name}/" for entry in entries if entry.is_dir()]
    by_suffix = defaultdict(list)
    for entry in entries:
        if not entry.is_dir():
            by_suffix[entry.suffix.lower() or "no suffix"].append(entry.name)
    files = [
        f"{len(names)} x {suffix}" + (f" ({', '.join(names)})" if len(names) <= _MAX_LISTED_NAMES else "")
        for suffix, names in sorted(by_suffix.items(), key=lambda item: -len(item[1]))
    ]
    shown = [*folders[:10], *([f"{len(folders) - 10} more folders"] if len(folders) > 10 else []), *files[:10]]
    return ", ".join(shown) or "nothing"


_MAX_LISTED_NAMES = 3
