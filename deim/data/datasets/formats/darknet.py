"""Detection of YOLO datasets described by an ``obj.data``: Darknet, and CVAT's "YOLO 1.1"."""

from pathlib import Path

from deim.data.datasets.found import SPLITS, TRAIN, Discovered, Format, Split, described
from deim.data.datasets.text import names_of, read_text
from deim.data.datasets.yolo import yolo_files_dataset
from deim.errors import DatasetError


def _signs(place: Path) -> list[Path]:
    if place.is_file():
        return [place] if place.suffix.lower() == ".data" else []
    return sorted(place.glob("*.data"))


def _describe(place: Path, signs: list[Path], images: Path | None) -> Discovered:
    file = signs[0]
    settings = {}
    for line in read_text(file).splitlines():
        key, equals, value = line.partition("=")
        if equals:
            settings[key.strip().lower()] = value.strip()
    if not settings.get("names"):
        raise DatasetError(f"{file} does not define names")
    names = _inside(file, settings["names"])
    if names is None:
        raise DatasetError(f"{file}: the names file {settings['names']} does not exist in {file.parent}")
    classes = names_of(names)
    splits, notes = {}, []
    for name in SPLITS:
        listing = _inside(file, settings[name]) if settings.get(name) else None
        if settings.get(name) and listing is None:
            told = f"{file}: the {name} list {settings[name]} does not exist in {file.parent}"
            if name in TRAIN:
                raise DatasetError(told)
            notes.append(f"{told}; this split is left out")
        if listing is not None:
            entry = listing.relative_to(file.parent).as_posix()
            splits[name] = Split(
                yolo_files_dataset, {"root": str(file.parent), "images": [entry], "class_names": classes}
            )
    return described("YOLO (Darknet)", place, classes, splits, notes)


def _inside(file: Path, written: str) -> Path | None:
    """Find a file that ``obj.data`` references, below its folder; CVAT prefixes files in that folder with ``data/``."""
    parts = [part for part in written.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    candidates = [file.parent.joinpath(*parts[start:]) for start in range(len(parts))]
    return next((path for path in candidates if path.exists()), None)


DARKNET = Format("YOLO (Darknet)", "obj.data with obj.names and train.txt", _signs, _describe)
