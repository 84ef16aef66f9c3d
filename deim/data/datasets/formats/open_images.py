"""Open Images format: CSV files with one line per box, relative to the image size."""

import csv
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deim.data.datasets.checks import Content, Problem
from deim.data.datasets.found import Discovered, Format, Split, chosen, described, split_of, subfolders
from deim.data.datasets.image_files import ImageFiles
from deim.data.datasets.listed import ListedImage, ListedObject, content_of, parsed
from deim.data.datasets.regions import Region
from deim.data.datasets.source import dataset_of, require_file
from deim.data.datasets.text import read_text
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
    classes = [str(one) for one in class_names]
    read = functools.partial(read_open_images, annotation_file, image_root, classes, dict(label_names))
    return dataset_of(names, f"{annotation_file}, {image_root}, {classes}", read, max_invalid_records)


def read_open_images(
    annotation_file: str, image_root: str, class_names: Sequence[str], label_names: Mapping[str, str]
) -> Content:
    """Read the file; see :func:`open_images_dataset`."""
    files = ImageFiles(image_root)
    images: dict[str, list[tuple[int, dict[str, str]]]] = {}
    for line, row in _rows(Path(annotation_file)):
        images.setdefault(row["ImageID"], []).append((line, row))
    present = {image: path for image in images if (path := files.find_stem(image)) is not None}

    def listed() -> Iterator[ListedImage | Problem]:
        for image, path in present.items():
            yield parsed(
                _image, f"{annotation_file}, image {image}", image, path, images[image], annotation_file, label_names
            )

    content = content_of(listed(), class_names, files, annotation_file, by_stem=True)
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
        raise DatasetError(f"{file}:{reader.line_num}: {error}") from error


def _image(
    image: str, path: Path, rows: Sequence[tuple[int, dict[str, str]]], source: str, label_names: Mapping[str, str]
) -> ListedImage:
    height, width = image_size(str(path))
    found = ListedImage(image, source, (height, width))
    for line, row in rows:
        left, top, right, bottom = (float(row[edge]) for edge in _EDGES)
        region = Region([left * width, top * height, right * width, bottom * height])
        label = row["LabelName"]
        found.objects.append(ListedObject(label_names.get(label, label), region, row.get("IsGroupOf") == "1", line))
    return found


def _signs(place: Path) -> list[Path]:
    if place.is_file():
        return [place] if place.suffix.lower() == ".csv" and _has_boxes(place) else []
    folders = [place, *subfolders(place)][:50]
    folders += [folder / "labels" for folder in folders[1:]]
    files = [path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*.csv"))[:50]]
    return [path for path in files if _has_boxes(path)]


def _has_boxes(file: Path) -> bool:
    with file.open("rb") as opened:
        header = opened.readline(4096).decode("utf-8-sig", "replace").strip().split(",")
    return set(_COLUMNS) <= set(header)


def _describe(place: Path, signs: list[Path], images: Path | None) -> Discovered:
    files: dict[str, Path] = {}
    for file in signs:
        files.setdefault("all" if place.is_file() else _split_name(file, place), file)
    labels = _label_names(place if place.is_dir() else place.parent)
    used = {row["LabelName"] for name in chosen(files) if name for _, row in _rows(files[name])}
    order = [label for label in labels if label in used] + sorted(used - labels.keys())
    classes = list(dict.fromkeys(labels.get(label, label) for label in order))
    notes = [] if labels else ["no class-descriptions*.csv found; using label codes as class names"]
    splits = {}
    for name, file in files.items():
        folder = place if place.is_dir() else place.parent
        places = (folder / name / "data", folder / name, folder / "images" / name, folder / "images")
        root = images or next((one for one in places if one.is_dir()), folder)
        arguments = {"annotation_file": str(file), "image_root": str(root), "class_names": classes}
        names = {label: labels[label] for label in order if label in labels}
        splits[name] = Split(open_images_dataset, arguments | {"label_names": names})
    return described("Open Images", place, classes, splits, notes)


def _split_name(file: Path, place: Path) -> str:
    """Return the split of a file such as ``oidv6-train-annotations-bbox.csv``, by its name or its folder."""
    words = file.stem.lower().replace("_", "-").split("-")
    return split_of(Path(*file.parts[:-1], next((w for w in words if w in _WORDS), file.stem)), place) or file.stem


_WORDS = ("train", "validation", "val", "test")


def _label_names(folder: Path) -> dict[str, str]:
    """Read class names by code from ``class-descriptions*.csv`` or ``classes.csv``, up to two levels below a folder."""
    patterns = ("*class-descriptions*.csv", "classes.csv")
    below = itertools.chain.from_iterable(
        folder.glob(f"{deep}{one}") for one in patterns for deep in ("", "*/", "*/*/")
    )
    file = next(iter(sorted(below)), None)
    if file is None:
        return {}
    rows = [row for row in csv.reader(read_text(file).splitlines()) if len(row) >= 2]
    return {code: name for code, name, *_ in rows if code != "LabelName"}


OPEN_IMAGES = Format(
    "Open Images", "a CSV file with ImageID, LabelName and XMin to YMax", _signs, _describe, takes_images=True
)
