"""Detection of COCO files, their images and their splits."""

import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deim.data.datasets.coco import coco_dataset
from deim.data.datasets.dataset_format import (
    SPLITS,
    TEST,
    VALIDATION,
    DiscoveredDataset,
    Format,
    Split,
    assemble_dataset,
    keep_selected_splits,
    list_subfolders,
)
from deim.data.datasets.formats.coco_export import Category, coco_export_dataset, parse_categories, read_lists
from deim.data.datasets.image_files import ImageFiles
from deim.data.datasets.keypoints import KeypointDefinition, keypoints_of_categories
from deim.data.datasets.text import is_plain_utf8
from deim.data.datasets.validation import is_box
from deim.errors import DatasetError

# A folder with more JSON files has one file per image, so it is not in COCO format.
_MAX_FILES = 50
# Maximum number of folders that are searched for JSON files.
_MAX_FOLDERS = 50
_KEYS = (b'"images"', b'"annotations"', b'"categories"')
# Keys of labelme and VIA files.
_KEYS_OF_OTHER_FORMATS = (b'"shapes"', b'"regions"')
_OTHER_TASKS = ("person_keypoints", "panoptic", "stuff", "captions", "image_info")
# Approximate number of images that are looked up to find the image folder.
_NUM_SAMPLES = 50


@dataclass(frozen=True)
class _AnnotationFile:
    """Annotation file of a split, with the properties on which its reader and the classes depend."""

    path: Path
    image_root: Path
    categories: Sequence[Category]
    used_category_ids: frozenset[str]
    is_detectron2_compatible: bool
    raw_categories: Sequence[Any]
    is_complete: bool


def _find_matches(dataset_path: Path) -> list[Path]:
    if dataset_path.is_file():
        return [dataset_path] if dataset_path.suffix.lower() == ".json" and _is_coco(dataset_path) else []
    return list(_find_coco_files(dataset_path))


def _find_coco_files(folder: Path) -> Iterator[Path]:
    folders = [folder, *list_subfolders(folder)]
    folders += [subfolder / "annotations" for subfolder in folders[1:] if subfolder.name.lower() in SPLITS]
    for subfolder in folders[:_MAX_FOLDERS]:
        files = sorted(subfolder.glob("*.json")) if subfolder.is_dir() else []
        yield from (file for file in files if len(files) <= _MAX_FILES and _is_coco(file))


def _is_coco(file: Path) -> bool:
    """Return whether a file has a typical COCO name or contains the COCO keys, without parsing the JSON.

    The name of a split, such as ``train.json``, is typical unless the file has only the keys of another format.
    """
    if file.name == "_annotations.coco.json" or file.stem.startswith("instances_"):
        return True
    with file.open("rb") as opened:
        if not file.stat().st_size:
            return file.stem.lower() in SPLITS
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            has_key = (content.find(key) >= 0 for key in _KEYS)
            if file.stem.lower() in SPLITS:
                return any(has_key) or all(content.find(key) < 0 for key in _KEYS_OF_OTHER_FORMATS)
            return all(has_key)


def _describe(dataset_path: Path, matches: list[Path], image_root: Path | None) -> DiscoveredDataset:
    notes: list[str] = []
    if dataset_path.is_file():
        paths = _pair_with_evaluation_file(dataset_path, notes)
        folder = dataset_path.parent
        if folder.name.lower() in ("annotations", "labels"):
            folder = folder.parent
        folder = folder.parent if folder.name.lower() in SPLITS else folder
    else:
        paths, folder = _group_by_split(matches, dataset_path, notes), dataset_path
    # Only the splits for training and evaluation are read: others, such as COCO's test split, may have no annotations.
    selected = keep_selected_splits(paths, notes)
    files = {name: _inspect_file(path, name, folder, image_root) for name, path in selected.items()}
    classes = _merge_classes(files, notes)
    splits = {}
    for name, file in files.items():
        arguments: dict[str, Any] = {"json_file": str(file.path), "image_root": str(file.image_root)}
        if file.is_detectron2_compatible and [category.name for category in file.categories] == classes:
            # pycocotools evaluates masks and keypoints only if all annotations of the file have them.
            completing = Split(coco_export_dataset, arguments | {"class_names": classes})
            splits[name] = Split(coco_dataset, arguments, None if file.is_complete else completing)
        else:
            splits[name] = Split(coco_export_dataset, arguments | {"class_names": classes})
    return assemble_dataset("COCO", dataset_path, classes, splits, notes, _keypoints(files, notes))


def _keypoints(files: Mapping[str, _AnnotationFile], notes: list[str]) -> KeypointDefinition | None:
    """Return the keypoints of the training split, which is the first of ``files``."""
    file = next(iter(files.values()))
    try:
        return keypoints_of_categories(file.raw_categories, str(file.path))
    except DatasetError as error:  # models without keypoints can use the dataset
        notes.append(f"the keypoints cannot be used: {error}")
        return None


def _pair_with_evaluation_file(file: Path, notes: list[str]) -> dict[str, Path]:
    """Return a file as the training split, with the matching validation or test file if there is one."""
    for training_name in ("training", "train"):
        for name in (*VALIDATION, *TEST):
            sibling = file.with_name(re.sub(training_name, name, file.name, flags=re.IGNORECASE))
            if sibling != file and sibling.is_file():
                notes.append(f"using {sibling.name} next to {file.name} for evaluation, because of its name")
                return {"train": file, name: sibling}
            counterpart = file.parent.parent / name / file.name
            if file.parent.name.lower() == training_name and counterpart.is_file():
                notes.append(f"using {counterpart} for evaluation, because of its name")
                return {"train": file, name: counterpart}
    return {"train": file}


def _group_by_split(files: Sequence[Path], folder: Path, notes: list[str]) -> dict[str, Path]:
    """Return the file of each split, by the words in its name or in the names of its parent folders.

    A file without the name of a split is the split "all". Of several files of a split, the first by :func:`_sort_key` is
    used.
    """
    groups: dict[str, list[Path]] = {}
    for file in sorted(files, key=lambda file: _sort_key(file, folder)):
        groups.setdefault(_infer_split_name(file, folder), []).append(file)
    for name, group in groups.items():
        others = [file for file in group[1:] if not file.stem.startswith(_OTHER_TASKS)]
        if others:
            ignored = ", ".join(str(file.relative_to(folder)) for file in others)
            notes.append(f"using {group[0].relative_to(folder)} for the split {name!r}; ignoring {ignored}")
    return {name: group[0] for name, group in groups.items()}


def _infer_split_name(file: Path, folder: Path) -> str:
    parts = [file.stem, *reversed(file.relative_to(folder).parts[:-1])]
    words = [word for part in parts for word in re.split(r"[^a-z]+", part.lower())]
    return next((word for word in words if word in SPLITS), "all")


def _sort_key(file: Path, folder: Path) -> tuple:
    is_other_task = file.stem.startswith(_OTHER_TASKS)
    return is_other_task, not file.stem.startswith("instances"), file.parent != folder / "annotations", str(file)


def _inspect_file(file: Path, split: str, folder: Path, image_root: Path | None) -> _AnnotationFile:
    lists = read_lists(file)
    categories = parse_categories(lists, file)
    root = _find_image_root(folder, file, split, lists["images"], image_root)
    annotations = [annotation for annotation in lists["annotations"] if isinstance(annotation, dict)]
    used_category_ids = frozenset(str(annotation.get("category_id")) for annotation in annotations)
    return _AnnotationFile(
        file,
        root,
        categories,
        used_category_ids,
        _is_detectron2_compatible(file, lists, categories, root),
        lists["categories"],
        _is_complete(annotations),
    )


def _is_complete(annotations: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether all annotations have masks, or none, and all have keypoints, or none."""
    kinds = {(bool(a.get("segmentation")), bool(a.get("keypoints")), "num_keypoints" in a) for a in annotations}
    return len(kinds) <= 1 and all(is_counted or not has_keypoints for _, has_keypoints, is_counted in kinds)


def _is_detectron2_compatible(
    file: Path, lists: Mapping[str, list], categories: Sequence[Category], root: Path
) -> bool:
    """Return whether detectron2's reader accepts the file and returns records that need no correction."""
    files = ImageFiles(root)
    entries = (*lists["images"], *lists["annotations"], *lists["categories"])
    return (
        all(isinstance(entry, dict) and type(entry.get("id")) is int for entry in entries)
        and len({image["id"] for image in lists["images"]}) == len(lists["images"])
        and len({category.name for category in categories}) == len(categories)
        and all(
            all(type(annotation.get(key)) is int for key in ("image_id", "category_id"))
            and is_box(annotation.get("bbox"))
            and isinstance(annotation.get("area"), int | float)  # the evaluation needs it
            and annotation.get("iscrowd") in (0, 1)
            and _is_valid_segmentation(annotation.get("segmentation"))
            for annotation in lists["annotations"]
        )
        and all(
            isinstance(image.get(side), int | float) and image[side] > 0
            for image in lists["images"]
            for side in ("height", "width")
        )
        and all(
            isinstance(image.get("file_name"), str) and files.contains(image["file_name"]) for image in lists["images"]
        )
        and not any(annotation.get("ignore") for annotation in lists["annotations"])
        and is_plain_utf8(file)
    )


def _is_valid_segmentation(segmentation: Any) -> bool:
    """Return whether detectron2's reader keeps an object with this segmentation: it drops objects without a polygon."""
    if not isinstance(segmentation, list):
        return not segmentation or isinstance(segmentation, dict)
    return not segmentation or (
        all(isinstance(points, list) for points in segmentation)
        and any(len(points) >= 6 and len(points) % 2 == 0 for points in segmentation)
    )


def _merge_classes(files: Mapping[str, _AnnotationFile], notes: list[str]) -> list[str]:
    """Return the class names of all splits, those of the training split first, which is the first of ``files``."""
    order = list(files)
    classes: dict[str, str] = {}
    parents = _find_roboflow_parents(files)
    for parent in sorted(parents):
        notes.append(f"ignoring the category {parent!r}, which Roboflow adds for the whole project")
    for split in order:
        for category in files[split].categories:
            classes.setdefault(category.name, split)
    names = [name for name in classes if name not in parents]
    additional = [name for name in names if classes[name] != order[0]]
    if additional:
        notes.append(f"classes missing in the split {order[0]!r} but present in another split: {', '.join(additional)}")
    return names


def _find_roboflow_parents(files: Mapping[str, _AnnotationFile]) -> set[str]:
    """Return Roboflow's project categories: top-level categories that have subcategories but no objects."""
    parents, with_objects = set(), set()
    for file in files.values():
        supercategories = {category.parent for category in file.categories}
        top_level = [category for category in file.categories if category.parent == "none"]
        parents |= {category.name for category in top_level if category.name in supercategories}
        with_objects |= {category.name for category in file.categories if category.key in file.used_category_ids}
    return parents - with_objects


def _find_image_root(folder: Path, file: Path, split: str, images: Sequence[Any], user_image_root: Path | None) -> Path:
    """Return the candidate folder that contains the most images of a sample of the listed ones.

    File names are compared exactly. If no candidate contains any of them, names are compared as by
    :meth:`ImageFiles.find`.
    """
    file_split = file.stem.removeprefix("instances_")
    names = [image.get("file_name") for image in images if isinstance(image, dict)]
    sample = [name for name in names if isinstance(name, str)][:: max(len(names) // _NUM_SAMPLES, 1)]
    if not sample:
        raise DatasetError(f"{file} lists no images with a file_name")
    if user_image_root is not None:
        candidates = [*(user_image_root / name for name in (file_split, split)), user_image_root]
    else:
        usual_folders = (
            file_split,
            f"images/{file_split}",
            split,
            f"images/{split}",
            "images",
            f"{split}/images",
            f"{split}/data",
        )
        usual_paths = [folder / name for name in usual_folders]
        candidates = [*usual_paths, file.parent / "data", folder / "data", file.parent, folder]
    candidates = [candidate for candidate in dict.fromkeys(candidates) if candidate.is_dir()]
    for lookup in (ImageFiles.contains, ImageFiles.find):
        hits = {candidate: _count_hits(lookup, candidate, sample) for candidate in candidates}
        best = max(candidates, key=lambda candidate: hits[candidate], default=None)
        if best is not None and hits[best]:
            return best
    raise DatasetError(
        f"no image of {file} was found in {', '.join(map(str, candidates))} (names tried: {len(sample)}, such as "
        f"{sample[0]}); set the image folder by --image-root"
    )


def _count_hits(lookup: Any, folder: Path, sample: Sequence[str]) -> int:
    files = ImageFiles(folder)
    return sum(bool(lookup(files, name)) for name in sample)


COCO = Format(
    "COCO",
    "a JSON file with images, annotations and categories (such as annotations/instances_train.json, train.json, "
    "result.json or train/_annotations.coco.json)",
    _find_matches,
    _describe,
    accepts_image_root=True,
)
