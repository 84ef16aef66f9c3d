"""labelme format: one JSON file per image."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from deim.data.datasets.checks import Content, Problem
from deim.data.datasets.found import Discovered, Format, Split, described, split_folders
from deim.data.datasets.image_files import ImageFiles
from deim.data.datasets.listed import ListedImage, ListedObject, content_of, parsed
from deim.data.datasets.regions import Region, ellipse, mask, mask_of_picture, polygon, rectangle
from deim.data.datasets.source import dataset_of, require_folder
from deim.data.datasets.text import names_of, read_json
from deim.errors import DatasetError

_WITHOUT_AREA = ("point", "points", "line", "linestrip")
# Entries of labelme's label list that are not classes.
_NO_CLASSES = ("__ignore__", "_background_")


def labelme_dataset(
    names: str, annotation_root: str, image_root: str, class_names: Sequence[str], max_invalid_records: int = 0
) -> list[dict]:
    """Read all labelme JSON files of a folder.

    Rectangles, polygons, circles and masks become objects; other shapes are left out. Each shape becomes one object;
    group ids are ignored. Images without a JSON file are left out: they may not be annotated yet.

    Args:
        names: name to register the dataset under.
        annotation_root: folder of the JSON files.
        image_root: folder that contains all images at any depth.
        class_names: class names in index order.
        max_invalid_records: number of problems that are tolerated; the affected images and objects are skipped.

    Returns:
        detectron2 records.

    Raises:
        DatasetError: if files are missing or malformed. The message names the file.
    """
    classes = [str(one) for one in class_names]
    read = functools.partial(read_labelme, annotation_root, image_root, classes)
    return dataset_of(names, f"{annotation_root}, {image_root}, {classes}", read, max_invalid_records)


def read_labelme(annotation_root: str, image_root: str, class_names: Sequence[str]) -> Content:
    """Read the files; see :func:`labelme_dataset`."""
    require_folder(Path(annotation_root))
    images, files = ImageFiles(image_root), _files(Path(annotation_root))

    def listed() -> Iterator[ListedImage | Problem]:
        for path in files:
            yield parsed(_image, str(path), path, Path(annotation_root), images)

    content = content_of(listed(), class_names, images, annotation_root)
    content.notes += images.note_without(files, "JSON")
    return content


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".json" and path.is_file())


def _image(path: Path, root: Path, images: ImageFiles) -> ListedImage:
    content = read_json(path)
    height, width = content.get("imageHeight"), content.get("imageWidth")
    size = (int(height), int(width)) if height and width else None
    inside = path.parent.relative_to(root)
    written = str(content["imagePath"])
    beside = images.find_stem((inside / path.stem).as_posix())
    name = written if beside is None else beside.relative_to(images.root).as_posix()
    found = ListedImage(name, str(path), size)
    for shape in content["shapes"]:
        if shape.get("shape_type") not in _WITHOUT_AREA:
            found.objects.append(ListedObject(str(shape["label"]), _region(shape, size)))
    return found


def _region(shape: Mapping[str, Any], size: tuple[int, int] | None) -> Region:
    points, kind = shape["points"], shape.get("shape_type") or "polygon"
    if kind == "rectangle" and len(points) == 2:
        return rectangle(*points[0], *points[1])
    if kind == "circle":
        (x, y), (edge_x, edge_y) = points
        radius = ((edge_x - x) ** 2 + (edge_y - y) ** 2) ** 0.5
        return ellipse(x, y, radius, radius)
    if kind == "mask":
        return mask(mask_of_picture(shape["mask"]), int(points[0][0]), int(points[0][1]), size)
    return polygon(points)


def _signs(place: Path) -> list[Path]:
    if place.is_file():
        return [place] if place.suffix.lower() == ".json" and _is_labelme(place) else []
    folders = [place, *split_folders(place).values()]
    folders += [folder / name for folder in folders[:] for name in ("labels", "annotations", "json", "ann")]
    return [folder for folder in folders if folder.is_dir() and _has_labelme(folder)]


def _has_labelme(folder: Path) -> bool:
    return any(_is_labelme(path) for path in sorted(folder.glob("*.json"))[:5])


def _is_labelme(path: Path) -> bool:
    content = path.read_bytes()
    return b'"shapes"' in content and b'"imagePath"' in content


def _describe(place: Path, signs: list[Path], images: Path | None) -> Discovered:
    if place.is_file():
        raise DatasetError(f"{place} is the labelme file of a single image; pass the folder that contains all files")
    splits = {}
    inside = {folder: name for name, folder in split_folders(place).items()}
    for folder in signs:
        owner = next((one for one in (folder, folder.parent) if one in inside), None)
        beside = folder if folder in (place, *inside) else folder.parent
        arguments = {"annotation_root": str(folder), "image_root": str(images or beside)}
        splits[inside[owner] if owner is not None else "all"] = Split(labelme_dataset, arguments)
    notes: list[str] = []
    classes = _classes(place, [Path(split.arguments["annotation_root"]) for split in splits.values()], notes)
    for split in splits.values():
        split.arguments["class_names"] = classes
    return described("labelme", place, classes, splits, notes)


def _classes(place: Path, folders: Sequence[Path], notes: list[str]) -> list[str]:
    listed = place / "labels.txt"
    if listed.is_file():
        return [name for name in names_of(listed) if name not in _NO_CLASSES]
    names: set[str] = set()
    files = [path for folder in folders for path in _files(folder)]
    for path in tqdm(files, "reading class names", delay=2, mininterval=2, unit="file"):
        try:
            shapes = read_json(path)["shapes"]
            names |= {str(shape["label"]) for shape in shapes if shape.get("shape_type") not in _WITHOUT_AREA}
        except (DatasetError, KeyError, TypeError, AttributeError):  # reported when the split is read
            continue
    notes.append("no labels.txt found; using the labels that occur in the shapes, in alphabetical order")
    return sorted(names)


LABELME = Format("labelme", "labelme JSON files, one per image", _signs, _describe, takes_images=True)
