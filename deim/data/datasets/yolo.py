"""YOLO format: one text file per image, a line ``class x y width height`` per object, relative to the image size."""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from detectron2.structures import BoxMode
from tqdm import tqdm

from deim.data.datasets.image_files import ImageFiles, find_images
from deim.data.datasets.keypoints import KeypointDefinition, find_flip_pairs
from deim.data.datasets.parsed_images import unresolved_image_problem
from deim.data.datasets.registration import register_dataset, require_file
from deim.data.datasets.text import read_text
from deim.data.datasets.validation import DatasetContent, Problem
from deim.data.image import image_size
from deim.errors import DatasetError


def yolo_dataset(
    names: str,
    data_file: str,
    split: str,
    max_invalid_records: int = 0,
    masks: bool = False,
    keypoints: bool = False,
    min_keypoints: int = 0,
) -> list[dict]:
    """Read one split of an Ultralytics ``data.yaml``.

    The file has ``names`` (a list, or a dict from index to name) and for each split a folder, a text file that lists
    images, or a list of these; they are relative to ``path``. The labels of ``.../images/x.jpg`` are in ``.../labels/x.txt``;
    an image without a label file has no objects. A line has the class, followed by a box or the corners of a polygon.
    Keypoints (with ``kpt_shape`` in the file) and one more number (track id or confidence) may follow a box. With two
    values per keypoint, keypoints with a negative coordinate are not labeled, and all others are visible.

    Args:
        names: name to register the dataset under.
        data_file: path of the ``data.yaml``.
        split: key of the split, such as "train" or "val".
        max_invalid_records: number of problems that are tolerated; the affected images and objects are skipped.
        masks: whether every line must have a polygon. Without it, boxes and polygons may be mixed.
        keypoints: whether to read the keypoints; polygons are then errors.
        min_keypoints: drop objects with fewer labeled keypoints, and images without other objects; 0 keeps all.

    Returns:
        detectron2 records.

    Raises:
        DatasetError: if files are missing or malformed. The message names file and line.
    """
    read = functools.partial(read_yolo, data_file, split, keypoints)
    source = f"{data_file}, {split}"
    return register_dataset(names, source, read, max_invalid_records, masks, keypoints, min_keypoints)


def yolo_files_dataset(
    names: str,
    root: str,
    images: Sequence[str],
    class_names: Sequence[str],
    max_invalid_records: int = 0,
    masks: bool = False,
) -> list[dict]:
    """Read images with YOLO labels that are not described by a ``data.yaml``.

    Args:
        names: name to register the dataset under.
        root: root folder of the dataset.
        images: image folders, or text files that list images, relative to ``root``.
        class_names: class names in index order.
        max_invalid_records: number of problems that are tolerated; the affected images and objects are skipped.
        masks: whether every line must have a polygon. Without it, boxes and polygons may be mixed.

    Returns:
        detectron2 records.

    Raises:
        DatasetError: if files are missing or malformed. The message names file and line.
    """
    classes = [str(name) for name in class_names]

    def read() -> DatasetContent:
        return read_labels([Path(root, entry) for entry in images], Path(root), classes, f"{root}, {', '.join(images)}")

    return register_dataset(names, f"{root}, {list(images)}, {classes}", read, max_invalid_records, masks)


def read_yolo(data_file: str, split: str, keypoints: bool = False) -> DatasetContent:
    """Read one split; see :func:`yolo_dataset`."""
    settings = read_data_yaml(Path(data_file), split)
    notes: list[str] = []
    entries = settings[split] if isinstance(settings[split], list) else [settings[split]]
    source_paths = [resolve_image_source(Path(data_file), settings, entry, notes) for entry in entries]
    for source_path in source_paths:
        if not source_path.exists():
            raise DatasetError(f"{data_file}: {split}: {source_path} does not exist")
    root = _base_folder(Path(data_file), settings)
    definition = yolo_keypoints(settings, data_file) if keypoints else None
    if keypoints and definition is None:
        raise DatasetError(f"{data_file} defines no keypoints: kpt_shape is missing")
    if definition is not None and not definition.flip_pairs:
        notes.append(f"{data_file} has no flip_idx: no keypoints are swapped when an image is mirrored")
    content = read_labels(
        source_paths,
        root,
        ordered_class_names(settings),
        f"{data_file}, {split}",
        _num_keypoint_values(settings),
        definition,
    )
    content.notes += notes
    return content


def read_labels(
    source_paths: Sequence[Path],
    root: Path,
    names: Sequence[str],
    source: str,
    num_keypoint_values: int = 0,
    keypoints: KeypointDefinition | None = None,
) -> DatasetContent:
    """Read images and their labels.

    Args:
        source_paths: image folders, or text files that list images.
        root: folder in which the images of a text file are searched, if they do not exist relative to that file.
        names: class names in index order.
        source: description of the data, for messages.
        num_keypoint_values: number of keypoint values after each box.
        keypoints: the keypoints to read; None skips their values.
    """
    content = DatasetContent([], list(names), [], keypoints=keypoints)
    for image_id, path in enumerate(
        tqdm(_list_images(source_paths, root, content), f"reading {source}", delay=2, mininterval=2, unit="image")
    ):
        labels = label_file(path)
        record: dict[str, Any] = {"file_name": str(path), "image_id": image_id, "annotation_file": str(labels)}
        try:
            record["height"], record["width"] = image_size(str(path))
        except DatasetError as error:
            content.problems.append(Problem(str(path), str(error), True))
            continue
        size = (record["height"], record["width"])
        record["annotations"] = list(_read_objects(labels, size, num_keypoint_values, keypoints, content.problems))
        content.records.append(record)
    return content


def read_data_yaml(path: Path, *splits: str) -> dict:
    """Read a ``data.yaml``.

    Without ``names``, the classes are named "0" to ``nc - 1``.

    Args:
        path: the file.
        splits: splits that must be defined.

    Raises:
        DatasetError: if the file does not exist or is malformed, or lacks ``names`` or one of ``splits``.
    """
    require_file(path)
    try:
        settings = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not valid YAML: {error}") from error
    if isinstance(settings, dict) and not settings.get("names") and _is_count(settings.get("nc")):
        settings["names"] = [str(number) for number in range(settings["nc"])]
    missing = [key for key in ("names", *splits) if not isinstance(settings, dict) or not settings.get(key)]
    if missing:
        raise DatasetError(f"{path} does not define {', '.join(map(repr, missing))}")
    names, path_values = settings["names"], [settings.get("path") or "", *(settings[split] for split in splits)]
    if isinstance(names, dict) and sorted(map(str, names)) != sorted(map(str, range(len(names)))):
        raise DatasetError(f"{path}: names has the keys {', '.join(map(str, names))}; expected 0 to {len(names) - 1}")
    if not isinstance(names, dict | list):
        raise DatasetError(f"{path}: names is {names!r}; expected a list of class names")
    for value in path_values:
        if not all(isinstance(entry, str) for entry in (value if isinstance(value, list) else [value])):
            raise DatasetError(f"{path}: {value!r} is not a path or a list of paths")
    return settings


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**5


def ordered_class_names(settings: dict) -> list[str]:
    """Return the class names in index order."""
    names = settings["names"]
    return [
        str(name) for name in ([names[key] for key in sorted(names, key=int)] if isinstance(names, dict) else names)
    ]


def _num_keypoint_values(settings: dict) -> int:
    shape = settings.get("kpt_shape")
    if isinstance(shape, list) and len(shape) == 2 and all(map(_is_count, shape)):
        return shape[0] * shape[1]
    return 0


def yolo_keypoints(settings: dict, source: str) -> KeypointDefinition | None:
    """Return the keypoints of a ``data.yaml``: ``kpt_shape``, ``flip_idx`` and ``kpt_names``, a list for each class.

    Without ``kpt_names``, keypoints are named by their numbers. Without ``flip_idx``, flip pairs are derived from names
    such as left_eye and right_eye.

    Args:
        settings: content of the file.
        source: the file, for messages.

    Returns:
        the definition; None if the file has no ``kpt_shape``.

    Raises:
        DatasetError: if ``kpt_shape`` or ``flip_idx`` is malformed.
    """
    shape, flip = settings.get("kpt_shape"), settings.get("flip_idx")
    if not shape:
        return None
    if not _num_keypoint_values(settings) or shape[1] not in (2, 3):
        raise DatasetError(f"{source}: kpt_shape is {shape!r}; expected the number of keypoints and 2 or 3")
    indices = list(range(shape[0]))
    listed = settings.get("kpt_names")
    listed = next(iter(listed.values()), None) if isinstance(listed, dict) else listed
    is_usable = isinstance(listed, list) and len(set(map(str, listed))) == len(listed) == len(indices)
    names = tuple(str(name) for name in (listed if isinstance(listed, list) and is_usable else indices))
    if not flip:
        return KeypointDefinition(names, find_flip_pairs(names))
    is_permutation = isinstance(flip, list) and all(type(n) is int for n in flip) and sorted(flip) == indices
    if not is_permutation or [flip[index] for index in flip] != indices:  # mirroring twice must change nothing
        raise DatasetError(
            f"{source}: flip_idx is {flip!r}; expected, for each of the {len(indices)} keypoints, the index of the "
            "keypoint that it is swapped with"
        )
    return KeypointDefinition(names, tuple((names[a], names[b]) for a, b in enumerate(flip) if a < b))


def _base_folder(data_file: Path, settings: dict) -> Path:
    """Return the base folder of the paths in a ``data.yaml``: its ``path`` if that folder exists, or the file's folder."""
    path = settings.get("path")
    base = data_file.parent / path if isinstance(path, str) and path else data_file.parent
    return base if base.is_dir() else data_file.parent


def resolve_image_source(data_file: Path, settings: dict, entry: str, notes: list[str]) -> Path:
    """Resolve an image folder or image list of a ``data.yaml``.

    Roboflow writes ``../train/images`` although the folder is ``train/images`` next to the file; other files contain
    backslashes or absolute paths from another machine. If an entry starts with ``..`` or does not exist, it is searched
    below the folder of the file.

    Args:
        notes: a note is appended if the path was found by that search, or lies outside of the folder of the file.

    Returns:
        the path; it does not exist if the entry cannot be resolved.
    """
    stated_path = _base_folder(data_file, settings) / entry
    parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    candidates = [data_file.parent.joinpath(*parts[start:]) for start in range(len(parts))]
    path_in_folder = next((path for path in candidates if path.exists()), None)
    if path_in_folder is not None and (entry.startswith("..") or not stated_path.exists()):
        notes.append(f"{data_file.name}: using {path_in_folder} for {entry}")
        return path_in_folder
    if stated_path.exists() and not stated_path.resolve().is_relative_to(data_file.parent.resolve()):
        notes.append(f"{data_file.name}: {entry} is outside of {data_file.parent}: {stated_path.resolve()}")
    return stated_path


def _list_images(source_paths: Iterable[Path], root: Path, content: DatasetContent) -> list[Path]:
    images: list[Path] = []
    for source_path in source_paths:
        if source_path.is_dir():
            images += find_images(source_path)
            continue
        beside_list, in_root = ImageFiles(source_path.parent), ImageFiles(root)
        for line in (line.strip() for line in read_text(source_path).splitlines() if line.strip()):
            name = _relative_to_root(line, root)
            path = source_path.parent / name if beside_list.contains(name) else in_root.find(name)
            if path is None:
                content.problems.append(unresolved_image_problem(str(source_path), line, in_root))
            else:
                images.append(path)
        content.notes += in_root.describe_inexact_matches(str(source_path))
    return images


def _relative_to_root(line: str, root: Path) -> str:
    """Return a path from an image list, relative to ``root`` if it is an absolute path below ``root``."""
    path = Path(line)
    return str(path.relative_to(root)) if path.is_absolute() and path.is_relative_to(root) else line


def label_file(image: Path) -> Path:
    """Return the path of an image's label file: the last folder ``images`` of its path is replaced by ``labels``.

    If no folder has that name, or there is no folder ``labels``, the label file is next to the image.
    """
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index].lower() == "images":
            capitalized, lowercase = Path(*parts[:index], "Labels"), Path(*parts[:index], "labels")
            if parts[index] == "Images" and capitalized.is_dir():
                parts[index] = "Labels"
            elif lowercase.is_dir() or not image.with_suffix(".txt").is_file():
                parts[index] = "labels"
            break
    path = Path(*parts).with_suffix(".txt")
    uppercase = path.with_suffix(".TXT")
    return uppercase if not path.is_file() and uppercase.is_file() else path


def _read_objects(
    path: Path,
    size: tuple[int, int],
    num_keypoint_values: int,
    keypoints: KeypointDefinition | None,
    problems: list[Problem],
) -> Iterable[dict]:
    if not path.is_file():
        return
    height, width = size
    # read_text decodes a file that is not text as Latin-1; its lines fail to parse as numbers, as reported below.
    for line, text in enumerate(read_text(path).splitlines(), 1):
        if not text.strip():
            continue
        try:
            label, *numbers = (float(word) for word in text.split())
            box, corners = _parse_shape(numbers, num_keypoint_values)
            if label != int(label):
                raise ValueError(f"class {label} is not an integer")
        except (ValueError, OverflowError) as error:
            problems.append(Problem(f"{path}:{line}", f"{text.strip()!r} is not a valid label: {error}", True))
            continue
        if keypoints is not None and corners is not None:
            message = (
                f"{len(numbers)} numbers follow the class; expected {4 + num_keypoint_values} for a box and keypoints"
            )
            problems.append(Problem(f"{path}:{line}", message, True, task="keypoints"))
            continue
        annotation = {
            "bbox": (box * [width, height, width, height]).tolist(),
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": int(label),
            "iscrowd": 0,
            "line": line,
        }
        if corners is not None:
            annotation["segmentation"] = [(corners * [width, height]).reshape(-1).tolist()]
        if keypoints is not None and len(numbers) >= 4 + num_keypoint_values:
            values = np.array(numbers[4 : 4 + num_keypoint_values]).reshape(len(keypoints.names), -1)
            annotation["keypoints"] = _absolute_keypoints(values, size)
        yield annotation


def _absolute_keypoints(values: np.ndarray, size: tuple[int, int]) -> list[float]:
    """Convert relative keypoints (P, 2 or 3) to x, y in pixels and visibility, as one list."""
    points = values[:, :2] * [size[1], size[0]]
    visibility = values[:, 2] if values.shape[1] == 3 else np.where((points < 0).any(axis=1), 0.0, 2.0)
    points = np.where(visibility[:, None] == 0, 0.0, points)
    return np.concatenate([points, visibility[:, None]], axis=1).reshape(-1).tolist()


def _parse_shape(numbers: Sequence[float], num_keypoint_values: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the relative box (4,) XYXY and, for a polygon, its corners (N, 2)."""
    values = np.array(numbers)
    box_lengths = {4, 5, 4 + num_keypoint_values, 5 + num_keypoint_values}
    if len(values) in box_lengths:
        return np.concatenate([values[:2] - values[2:4] / 2, values[:2] + values[2:4] / 2]), None
    if len(values) < 6 or len(values) % 2:
        expected = " or ".join(map(str, sorted(box_lengths)))
        raise ValueError(
            f"{len(values)} numbers follow the class; expected {expected} for a box, or an even number from 6 "
            "for the corners of a polygon"
        )
    corners = values.reshape(-1, 2)
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)]), corners


def find_highest_class(source_paths: Iterable[Path], root: Path) -> int:
    """Return the highest class index in the labels of image folders or image lists; -1 if there are no labels."""
    highest = -1
    for image in _list_images(source_paths, root, DatasetContent([], [], [])):
        path = label_file(image)
        for text in read_text(path).splitlines() if path.is_file() else ():
            word = text.split()[:1]
            if word and word[0].isdecimal() and len(word[0]) < 6:
                highest = max(highest, int(word[0]))
    return highest
