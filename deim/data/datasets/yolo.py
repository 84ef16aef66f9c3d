"""YOLO folders: a text file per image, with a line ``class x y width height`` per object, relative to the image."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from detectron2.structures import BoxMode
from tqdm import tqdm

from deim.data.datasets.checks import Content, Problem
from deim.data.datasets.source import dataset_of, require_file
from deim.data.image import IMAGE_SUFFIXES, image_size
from deim.errors import DatasetError


def yolo_dataset(name: str, data_file: str, split: str, problems_allowed: int = 0) -> list[dict]:
    """The records of one split of a ``data.yaml``, as Ultralytics defines it.

    The file has ``names`` (a list, or a dict from index to name) and for each split a folder, a list of
    folders, or a text file that lists images, relative to ``path``. The labels of
    ``.../images/x.jpg`` are in ``.../labels/x.txt``; without such a file an image has no objects. Lines
    with more than five numbers are polygons, which become the boxes around them.

    Args:
        name: to register it by.
        split: "train", "val" or "test".
        problems_allowed: so many images and objects that are wrong are left out, and no more.

    Raises:
        DatasetError: files are missing or malformed; it names file and line.
    """
    return dataset_of(name, f"{data_file}, {split}", functools.partial(read_yolo, data_file, split), problems_allowed)


def read_yolo(data_file: str, split: str) -> Content:
    settings = read_settings(Path(data_file), split)
    content = Content([], class_names(settings), [])
    images = _images(Path(data_file), settings, split)
    for image_id, path in enumerate(
        tqdm(images, f"reading {data_file}, {split}", delay=2, mininterval=2, unit="image")
    ):
        labels = _label_file(path)
        record: dict[str, Any] = {"file_name": str(path), "image_id": image_id, "annotation_file": str(labels)}
        try:
            record["height"], record["width"] = image_size(str(path))
        except DatasetError as error:
            content.problems.append(Problem(str(path), str(error), True))
            continue
        record["annotations"] = list(_objects(labels, record["height"], record["width"], content.problems))
        content.records.append(record)
    return content


def read_settings(path: Path, *splits: str) -> dict:
    """The content of a ``data.yaml``.

    Raises:
        DatasetError: it does not exist or is malformed, or has no names or one of ``splits`` not.
    """
    require_file(path)
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is no valid YAML: {error}") from error
    missing = [key for key in ("names", *splits) if not isinstance(settings, dict) or not settings.get(key)]
    if missing:
        raise DatasetError(f"{path} has no {' and no '.join(missing)}")
    names, places = settings["names"], [settings.get("path") or "", *(settings[split] for split in splits)]
    if isinstance(names, dict) and sorted(names, key=str) != sorted(range(len(names)), key=str):
        raise DatasetError(f"{path}: names has the keys {', '.join(map(str, names))}, not 0 to {len(names) - 1}")
    if not isinstance(names, dict | list):
        raise DatasetError(f"{path}: names is {names!r}, and not a list of names")
    for place in places:
        if not all(isinstance(entry, str) for entry in (place if isinstance(place, list) else [place])):
            raise DatasetError(f"{path}: {place!r} is no path, nor a list of paths")
    return settings


def class_names(settings: dict) -> list[str]:
    """In the order of their indices."""
    names = settings["names"]
    return [str(name) for name in ([names[i] for i in sorted(names)] if isinstance(names, dict) else names)]


def _images(data_file: Path, settings: dict, split: str) -> list[Path]:
    root = data_file.parent / (settings.get("path") or ".")
    entries = settings[split] if isinstance(settings[split], list) else [settings[split]]
    images: list[Path] = []
    for entry in entries:
        place = root / entry
        if place.is_dir():
            images += sorted(path for path in place.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        elif place.is_file():
            images += [
                place.parent / line.strip() for line in place.read_text(encoding="utf-8").splitlines() if line.strip()
            ]
        else:
            raise DatasetError(f"{data_file}: {split} names {place}, which does not exist")
    return images


def _label_file(image: Path) -> Path:
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _objects(path: Path, height: int, width: int, problems: list[Problem]) -> list[dict]:
    if not path.is_file():
        return []
    objects = []
    # what is no text is no number either, and told below
    for line, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not text.strip():
            continue
        try:
            label, *numbers = (float(word) for word in text.split())
            box = _box(numbers)
            if label != int(label):
                raise ValueError(f"class {label} is no whole number")
        except (ValueError, OverflowError) as error:
            problems.append(Problem(f"{path}:{line}", f"{text.strip()!r} is no object: {error}", True))
            continue
        objects.append(
            {
                "bbox": (box * [width, height, width, height]).tolist(),
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": int(label),
                "iscrowd": 0,
                "line": line,
            }
        )
    return objects


def _box(numbers: Sequence[float]) -> np.ndarray:
    """(4,) XYXY, relative, of a box or a polygon."""
    values = np.array(numbers)
    if len(values) == 4:
        return np.concatenate([values[:2] - values[2:] / 2, values[:2] + values[2:] / 2])
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f"{len(values)} numbers follow the class, not 4, nor the corners of a polygon")
    corners = values.reshape(-1, 2)
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])
