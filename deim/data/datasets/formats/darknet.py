"""Detection of YOLO datasets described by an ``obj.data``: Darknet, and CVAT's "YOLO 1.1"."""

import re
from pathlib import Path

from deim.data.datasets.dataset_format import SPLITS, TRAIN, DiscoveredDataset, Format, Split, assemble_dataset
from deim.data.datasets.text import read_class_names, read_text
from deim.data.datasets.yolo import yolo_files_dataset
from deim.errors import DatasetError

_KEY = re.compile(rb"^\s*(classes|train|names)\s*=", re.MULTILINE)


def _find_matches(dataset_path: Path) -> list[Path]:
    if dataset_path.is_file():
        return [dataset_path] if dataset_path.suffix.lower() == ".data" else []
    # Other files have this suffix, too.
    files = sorted(path for path in dataset_path.glob("*.data") if path.is_file())
    return [path for path in files if _KEY.search(path.read_bytes()[:4096])]


def _describe(dataset_path: Path, matches: list[Path], image_root: Path | None) -> DiscoveredDataset:
    file = matches[0]
    settings = {}
    for line in read_text(file).splitlines():
        key, separator, value = line.partition("=")
        if separator:
            settings[key.strip().lower()] = value.strip()
    if not settings.get("names"):
        raise DatasetError(f"{file} does not define the key 'names'")
    names_file = _resolve_listed_path(file, settings["names"])
    if names_file is None:
        raise DatasetError(f"{file}: the names file {settings['names']} was not found below {file.parent}")
    classes = read_class_names(names_file)
    splits, notes = {}, []
    if len(matches) > 1:
        notes.append(f"using {file.name}; ignoring {', '.join(match.name for match in matches[1:])}")
    for name in SPLITS:
        image_list = _resolve_listed_path(file, settings[name]) if settings.get(name) else None
        if settings.get(name) and image_list is None:
            message = f"{file}: the {name} list {settings[name]} was not found below {file.parent}"
            if name in TRAIN:
                raise DatasetError(message)
            notes.append(f"{message}; this split is left out")
        if image_list is not None:
            entry = image_list.relative_to(file.parent).as_posix()
            splits[name] = Split(
                yolo_files_dataset, {"root": str(file.parent), "images": [entry], "class_names": classes}
            )
    return assemble_dataset("YOLO (Darknet)", dataset_path, classes, splits, notes)


def _resolve_listed_path(file: Path, listed_path: str) -> Path | None:
    """Return the path of a file that ``obj.data`` references, or None if the file does not exist.

    Leading folders of the listed path are dropped until the file exists below the folder of ``obj.data``: CVAT writes
    ``data/train.txt`` for a file next to ``obj.data``.

    Args:
        file: the ``obj.data``.
        listed_path: path in ``obj.data``.
    """
    parts = [part for part in listed_path.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    candidates = [file.parent.joinpath(*parts[start:]) for start in range(len(parts))]
    return next((path for path in candidates if path.exists()), None)


DARKNET = Format("YOLO (Darknet)", "obj.data with obj.names and train.txt", _find_matches, _describe)
