"""Open Images format: CSV files with one line per box, relative to the image size."""

import csv
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deim.data.datasets.dataset_format import (
    DiscoveredDataset,
    Format,
    Split,
    assemble_dataset,
    infer_split,
    list_subfolders,
    select_splits,
)
from deim.data.datasets.image_files import ImageFiles
from deim.data.datasets.parsed_images import ParsedImage, ParsedObject, build_content, parse_entry
from deim.data.datasets.regions import Region
from deim.data.datasets.registration import register_dataset, require_file
from deim.data.datasets.text import read_text
from deim.data.datasets.validation import DatasetContent, Problem
from deim.data.image import image_size
from deim.errors import DatasetError

_EDGES = ("XMin", "YMin", "XMax", "YMax")
_COLUMNS = ("ImageID", "LabelName", *_EDGES)


def open_images_dataset(
    names: str,
    annotation_file: str,
    image_root: str,
    class_names: Sequence[str],
    label_names: Mapping[str, str],
    max_invalid_records: int = 0,
) -> list[dict]:
    """Read an Open Images CSV file of boxes.

    Group boxes become crowds. Listed images that are missing in ``image_root`` are left out, because most users
    download only part of the images; a note gives their number.

    Args:
        names: name to register the dataset under.
        annotation_file: the CSV file.
        image_root: folder that contains all images at any depth, as ``<ImageID>.jpg``.
        class_names: class names in index order.
        label_names: class name of each ``LabelName``; a label that is not listed is its own class name.
        max_invalid_records: number of problems that are tolerated; the affected images and objects are skipped.

    Returns:
        detectron2 records.

    Raises:
        DatasetError: if the file is missing or malformed. The message names the image.
    """
    classes = [str(name) for name in class_names]
    read = functools.partial(read_open_images, annotation_file, image_root, classes, dict(label_names))
    return register_dataset(names, f"{annotation_file}, {image_root}, {classes}", read, max_invalid_records)


def read_open_images(
    annotation_file: str, image_root: str, class_names: Sequence[str], label_names: Mapping[str, str]
) -> DatasetContent:
    """Read the file; see :func:`open_images_dataset`."""
    files = ImageFiles(image_root)
    images: dict[str, list[tuple[int, dict[str, str]]]] = {}
    for line, row in _rows(Path(annotation_file)):
        images.setdefault(row["ImageID"], []).append((line, row))
    present = {image: path for image in images if (path := files.find_by_stem(image)) is not None}

    def parse_images() -> Iterator[ParsedImage | Problem]:
        for image, path in present.items():
            yield parse_entry(
                _image, f"{annotation_file}, image {image}", image, path, images[image], annotation_file, label_names
            )

    content = build_content(parse_images(), class_names, files, annotation_file, by_stem=True)
    if len(present) < len(images):
        left_out = len(images) - len(present)
        content.notes.append(
            f"{left_out} of {len(images)} images of {annotation_file} are missing in {image_root} and are left out"
        )
    return content


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    require_file(file)
    reader = csv.DictReader(read_text(file).splitlines())
    missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise DatasetError(f"{file} is not an Open Images box file: missing columns: {', '.join(missing)}")
    try:
        for row in reader:
            if not row["ImageID"] or not row["LabelName"]:
                raise DatasetError(f"{file}:{reader.line_num}: ImageID or LabelName is missing")
            yield reader.line_num, row
    except csv.Error as error:
        raise DatasetError(f"{file}:{reader.reader.line_num}: {error}") from error


def _image(
    image: str, path: Path, rows: Sequence[tuple[int, dict[str, str]]], source: str, label_names: Mapping[str, str]
) -> ParsedImage:
    height, width = image_size(str(path))
    parsed_image = ParsedImage(image, source, (height, width))
    for line, row in rows:
        left, top, right, bottom = (float(row[edge]) for edge in _EDGES)
        region = Region([left * width, top * height, right * width, bottom * height])
        label = row["LabelName"]
        parsed_image.objects.append(
            ParsedObject(label_names.get(label, label), region, row.get("IsGroupOf") == "1", line)
        )
    return parsed_image


def _find_matches(dataset_path: Path) -> list[Path]:
    if dataset_path.is_file():
        return [dataset_path] if dataset_path.suffix.lower() == ".csv" and _has_boxes(dataset_path) else []
    folders = [dataset_path, *list_subfolders(dataset_path)][:50]
    folders += [folder / "labels" for folder in folders[1:]]
    files = [path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*.csv"))[:50]]
    return [path for path in files if _has_boxes(path)]


def _has_boxes(file: Path) -> bool:
    with file.open("rb") as opened:
        header = opened.readline(4096).decode("utf-8-sig", "replace").strip().split(",")
    return set(_COLUMNS) <= set(header)


def _describe(dataset_path: Path, matches: list[Path], image_root: Path | None) -> DiscoveredDataset:
    files: dict[str, Path] = {}
    notes = []
    for file in matches:
        name = "all" if dataset_path.is_file() else _split_name(file, dataset_path)
        if files.setdefault(name, file) != file:
            notes.append(f"several files for the split {name!r}; ignoring {file.name}")
    labels = _label_names(dataset_path if dataset_path.is_dir() else dataset_path.parent)
    used_labels = {row["LabelName"] for name in select_splits(files) if name for _, row in _rows(files[name])}
    order = [label for label in labels if label in used_labels] + sorted(used_labels - labels.keys())
    classes = list(dict.fromkeys(labels.get(label, label) for label in order))
    if not labels:
        notes.append("no class-descriptions*.csv or classes.csv found; using label codes as class names")
    splits = {}
    for name, file in files.items():
        folder = dataset_path if dataset_path.is_dir() else dataset_path.parent
        candidates = (folder / name / "data", folder / name, folder / "images" / name, folder / "images")
        root = image_root or next((candidate for candidate in candidates if candidate.is_dir()), folder)
        arguments = {"annotation_file": str(file), "image_root": str(root), "class_names": classes}
        names = {label: labels[label] for label in order if label in labels}
        splits[name] = Split(open_images_dataset, arguments | {"label_names": names})
    return assemble_dataset("Open Images", dataset_path, classes, splits, notes)


def _split_name(file: Path, root: Path) -> str:
    """Return the split of a file such as ``oidv6-train-annotations-bbox.csv``, by its name or its folder."""
    words = file.stem.lower().replace("_", "-").split("-")
    return (
        infer_split(Path(*file.parts[:-1], next((w for w in words if w in _SPLIT_WORDS), file.stem)), root) or file.stem
    )


_SPLIT_WORDS = ("train", "validation", "val", "test")


def _label_names(folder: Path) -> dict[str, str]:
    """Read class names by code from ``class-descriptions*.csv`` or ``classes.csv``, up to two levels below a folder."""
    patterns = ("*class-descriptions*.csv", "classes.csv")
    candidates = itertools.chain.from_iterable(
        folder.glob(f"{levels}{pattern}") for pattern in patterns for levels in ("", "*/", "*/*/")
    )
    file = next(iter(sorted(candidates)), None)
    if file is None:
        return {}
    rows = [row for row in csv.reader(read_text(file).splitlines()) if len(row) >= 2]
    return {code: name for code, name, *_ in rows if code != "LabelName"}


OPEN_IMAGES = Format(
    "Open Images",
    "a CSV file with ImageID, LabelName and XMin to YMax",
    _find_matches,
    _describe,
    accepts_image_root=True,
)
