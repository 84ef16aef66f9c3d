"""Supervisely format: ``meta.json``, and folders with ``ann`` and ``img``."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deim.data.datasets.checks import Content, Problem
from deim.data.datasets.found import SPLITS, Discovered, Format, Split, described
from deim.data.datasets.image_files import ImageFiles
from deim.data.datasets.listed import ListedImage, ListedObject, content_of, parsed
from deim.data.datasets.regions import Region, mask, mask_of_picture, polygon, rectangle
from deim.data.datasets.source import dataset_of, require_folder
from deim.data.datasets.text import read_json
from deim.errors import DatasetError

_SHAPES = ("rectangle", "polygon", "bitmap")


def supervisely_dataset(
    names: str, root: str, folders: Sequence[str], class_names: Sequence[str], max_invalid_records: int = 0
) -> list[dict]:
    """Read datasets of a Supervisely project.

    Rectangles, polygons and bitmaps become objects; other shapes are left out. In this format, the right and the lower
    edge of a rectangle are the last pixels inside it.

    Args:
        names: name to register the dataset under.
        root: project folder.
        folders: dataset folders, relative to ``root``; each contains ``ann/<image>.json`` and ``img/<image>``.
        class_names: class names in index order.
        max_invalid_records: number of problems that are tolerated; the affected images and objects are skipped.

    Returns:
        detectron2 records.

    Raises:
        DatasetError: if files are missing or malformed. The message names the file.
    """
    classes = [str(one) for one in class_names]
    read = functools.partial(read_supervisely, root, list(folders), classes)
    return dataset_of(names, f"{root}, {list(folders)}, {classes}", read, max_invalid_records)


def read_supervisely(root: str, folders: Sequence[str], class_names: Sequence[str]) -> Content:
    """Read the datasets; see :func:`supervisely_dataset`."""

    def listed() -> Iterator[ListedImage | Problem]:
        for folder in folders:
            require_folder(Path(root, folder, "ann"))
            for path in sorted(Path(root, folder, "ann").glob("*.json")):
                yield parsed(_image, str(path), path, f"{folder}/img/{path.stem}")

    return content_of(listed(), class_names, ImageFiles(root), root)


def _image(path: Path, name: str) -> ListedImage:
    content = read_json(path)
    size = (int(content["size"]["height"]), int(content["size"]["width"]))
    found = ListedImage(name, str(path), size)
    for one in content["objects"]:
        if one.get("geometryType") in _SHAPES:
            found.objects.append(ListedObject(str(one["classTitle"]), _region(one, size)))
    return found


def _region(found: Mapping[str, Any], size: tuple[int, int]) -> Region:
    if found["geometryType"] == "bitmap":
        left, top = found["bitmap"]["origin"]
        return mask(mask_of_picture(found["bitmap"]["data"], compressed=True), int(left), int(top), size)
    points = found["points"]["exterior"]
    if found["geometryType"] == "rectangle":
        (left, top), (right, bottom) = points
        return rectangle(left, top, right + 1, bottom + 1)
    return polygon(points)


def _signs(place: Path) -> list[Path]:
    return [place / "meta.json"] if (place / "meta.json").is_file() and _folders(place) else []


def _folders(place: Path) -> list[str]:
    """Return the dataset folders, which may be nested."""
    found = [*place.glob("ann"), *place.glob("*/ann"), *place.glob("*/datasets/*/ann")]
    return sorted(path.parent.relative_to(place).as_posix() for path in found if (path.parent / "img").is_dir())


def _describe(place: Path, signs: list[Path], images: Path | None) -> Discovered:
    meta = read_json(signs[0])
    try:
        classes = [str(one["title"]) for one in meta["classes"] if one.get("shape") not in ("point", "line", "graph")]
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{signs[0]} is not a Supervisely meta.json: it has no list of classes with titles"
        ) from error
    folders, notes = _folders(place), []
    named = {one.lower(): [one] for one in folders if one.lower() in SPLITS}
    if named and len(named) == len(folders):
        groups = named
    else:
        groups = {"all": folders}
        if len(folders) > 1:
            notes.append(f"the datasets {', '.join(folders)} are not named like splits and are merged")
    splits = {
        name: Split(supervisely_dataset, {"root": str(place), "folders": group, "class_names": classes})
        for name, group in groups.items()
    }
    return described("Supervisely", place, classes, splits, notes)


SUPERVISELY = Format("Supervisely", "meta.json with <dataset>/ann and <dataset>/img", _signs, _describe)
