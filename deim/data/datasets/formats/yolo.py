"""Detection of YOLO datasets described by a ``data.yaml``: Ultralytics, Roboflow, CVAT."""

import re
from pathlib import Path

from deim.data.datasets.found import SPLITS, TRAIN, Discovered, Format, Split, described
from deim.data.datasets.text import read_text
from deim.data.datasets.yolo import class_names, place_of, read_settings, yolo_dataset
from deim.errors import DatasetError

_SUFFIXES = (".yaml", ".yml")
_KEYS = (re.compile(r"^(names|nc)\s*:", re.MULTILINE), re.compile(r"^(train|val)\s*:", re.MULTILINE))


def _signs(place: Path) -> list[Path]:
    if place.is_file():
        return [place] if place.suffix.lower() in _SUFFIXES else []
    usual = [place / f"data{suffix}" for suffix in _SUFFIXES if (place / f"data{suffix}").is_file()]
    others = sorted(path for path in place.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())
    return usual or [path for path in others[:20] if all(key.search(read_text(path)) for key in _KEYS)]


def _describe(place: Path, signs: list[Path], images: Path | None) -> Discovered:
    file = signs[0]
    settings = read_settings(file)
    notes = []
    if len(signs) > 1:
        notes.append(f"using {file.name}; ignoring {', '.join(one.name for one in signs[1:])}")
    if settings["names"] == [str(number) for number in range(len(settings["names"]))]:
        notes.append(f"{file.name} defines no names; using class numbers as class names")
    splits = {}
    for name in SPLITS:
        if not settings.get(name):
            continue
        read_settings(file, name)
        entries = settings[name] if isinstance(settings[name], list) else [settings[name]]
        missing = [entry for entry in entries if not place_of(file, settings, entry, notes).exists()]
        if missing and name in TRAIN:
            raise DatasetError(f"{file}: {name}: {missing[0]} does not exist")
        if missing:
            notes.append(f"{file.name}: {name}: {missing[0]} does not exist; this split is left out")
            continue
        splits[name] = Split(yolo_dataset, {"data_file": str(file), "split": name})
    return described("YOLO", file, class_names(settings), splits, list(dict.fromkeys(notes)))


YOLO = Format("YOLO", "data.yaml", _signs, _describe)
