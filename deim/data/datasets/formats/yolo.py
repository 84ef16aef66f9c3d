"""Detection of YOLO datasets described by a ``data.yaml``: Ultralytics, Roboflow, CVAT."""

import re
from pathlib import Path

from deim.data.datasets.dataset_format import SPLITS, TRAIN, DiscoveredDataset, Format, Split, assemble_dataset
from deim.data.datasets.keypoints import KeypointDefinition
from deim.data.datasets.text import read_text
from deim.data.datasets.yolo import (
    ordered_class_names,
    read_data_yaml,
    resolve_image_source,
    yolo_dataset,
    yolo_keypoints,
)
from deim.errors import DatasetError

_SUFFIXES = (".yaml", ".yml")
_KEYS = (re.compile(r"^(names|nc)\s*:", re.MULTILINE), re.compile(r"^(train|val)\s*:", re.MULTILINE))


def _find_matches(dataset_path: Path) -> list[Path]:
    if dataset_path.is_file():
        return [dataset_path] if dataset_path.suffix.lower() in _SUFFIXES else []
    usual = [dataset_path / f"data{suffix}" for suffix in _SUFFIXES if (dataset_path / f"data{suffix}").is_file()]
    others = sorted(path for path in dataset_path.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())
    return usual or [path for path in others[:20] if all(key.search(read_text(path)) for key in _KEYS)]


def _describe(dataset_path: Path, matches: list[Path], image_root: Path | None) -> DiscoveredDataset:
    file = matches[0]
    settings = read_data_yaml(file)
    notes = []
    if len(matches) > 1:
        notes.append(f"using {file.name}; ignoring {', '.join(match.name for match in matches[1:])}")
    if settings["names"] == [str(number) for number in range(len(settings["names"]))]:
        notes.append(f"using class numbers as class names; {file.name} contains no other names")
    splits = {}
    for name in SPLITS:
        if not settings.get(name):
            continue
        read_data_yaml(file, name)
        entries = settings[name] if isinstance(settings[name], list) else [settings[name]]
        missing = [entry for entry in entries if not resolve_image_source(file, settings, entry, notes).exists()]
        if missing and name in TRAIN:
            raise DatasetError(f"{file}: {name}: {missing[0]} does not exist")
        if missing:
            notes.append(f"{file.name}: {name}: {missing[0]} does not exist; this split is left out")
            continue
        splits[name] = Split(yolo_dataset, {"data_file": str(file), "split": name})
    keypoints = _keypoints(settings, file, notes)
    classes = ordered_class_names(settings)
    return assemble_dataset("YOLO", file, classes, splits, list(dict.fromkeys(notes)), keypoints)


def _keypoints(settings: dict, file: Path, notes: list[str]) -> KeypointDefinition | None:
    try:
        return yolo_keypoints(settings, str(file))
    except DatasetError as error:  # models without keypoints can use the dataset
        notes.append(f"the keypoints cannot be used: {error}")
        return None


YOLO = Format("YOLO", "data.yaml", _find_matches, _describe)
