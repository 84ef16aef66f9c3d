"""Supervisely format: ``meta.json``, and folders with ``ann`` and ``img``."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deim.data.datasets.dataset_format import SPLITS, DiscoveredDataset, Format, Split, assemble_dataset
from deim.data.datasets.image_files import ImageFiles
from deim.data.datasets.parsed_images import ParsedImage, ParsedObject, build_content, parse_entry
from deim.data.datasets.regions import Region, decode_mask_image, mask_region, polygon, polygon_with_holes, rectangle
from deim.data.datasets.registration import register_dataset, require_folder
from deim.data.datasets.text import read_json
from deim.data.datasets.validation import DatasetContent, Problem
from deim.errors import DatasetError

_SHAPES = ("rectangle", "polygon", "bitmap")


def supervisely_dataset(
    names: str,
    root: str,
    folders: Sequence[str],
    class_names: Sequence[str],
    max_invalid_records: int = 0,
    masks: bool = False,
) -> list[dict]:
    """Read datasets of a Supervisely project.

    Rectangles, polygons and bitmaps become objects; other shapes are left out. The mask of a polygon
    with holes is a run-length encoding. In this format, the right and the lower edge of a rectangle are the last pixels
    inside it.

    Args:
        names: name to register the dataset under.
        root: project folder.
        folders: dataset folders, relative to ``root``; each contains ``ann/<image>.json`` and ``img/<image>``.
        class_names: class names in index order.
        max_invalid_records: number of problems that are tolerated; the affected images and objects are skipped.
        masks: whether every object must have a mask.

    Returns:
        detectron2 records.

    Raises:
        DatasetError: if files are missing or malformed. The message names the file.
    """
    classes = [str(name) for name in class_names]
    read = functools.partial(read_supervisely, root, list(folders), classes)
    return register_dataset(names, f"{root}, {list(folders)}, {classes}", read, max_invalid_records, masks)


def read_supervisely(root: str, folders: Sequence[str], class_names: Sequence[str]) -> DatasetContent:
    """Read the datasets; see :func:`supervisely_dataset`."""

    def parse_images() -> Iterator[ParsedImage | Problem]:
        for folder in folders:
            require_folder(Path(root, folder, "ann"))
            for path in sorted(Path(root, folder, "ann").glob("*.json")):
                yield parse_entry(_image, str(path), path, f"{folder}/img/{path.stem}")

    return build_content(parse_images(), class_names, ImageFiles(root), root)


def _image(path: Path, name: str) -> ParsedImage:
    content = read_json(path)
    size = (int(content["size"]["height"]), int(content["size"]["width"]))
    parsed_image = ParsedImage(name, str(path), size)
    for shape in content["objects"]:
        if shape.get("geometryType") in _SHAPES:
            parsed_image.objects.append(ParsedObject(str(shape["classTitle"]), _region(shape, size)))
    return parsed_image


def _region(shape: Mapping[str, Any], size: tuple[int, int]) -> Region:
    if shape["geometryType"] == "bitmap":
        left, top = shape["bitmap"]["origin"]
        return mask_region(decode_mask_image(shape["bitmap"]["data"], compressed=True), int(left), int(top), size)
    points, holes = shape["points"]["exterior"], shape["points"].get("interior")
    if shape["geometryType"] == "rectangle":
        (left, top), (right, bottom) = points
        return rectangle(left, top, right + 1, bottom + 1)
    return polygon_with_holes(points, holes, size) if holes else polygon(points)


def _find_matches(dataset_path: Path) -> list[Path]:
    return [dataset_path / "meta.json"] if (dataset_path / "meta.json").is_file() and _folders(dataset_path) else []


def _folders(root: Path) -> list[str]:
    """Return the dataset folders: the root, its subfolders, and the ``datasets`` folders of these."""
    annotation_folders = [*root.glob("ann"), *root.glob("*/ann"), *root.glob("*/datasets/*/ann")]
    return sorted(
        path.parent.relative_to(root).as_posix() for path in annotation_folders if (path.parent / "img").is_dir()
    )


def _describe(dataset_path: Path, matches: list[Path], image_root: Path | None) -> DiscoveredDataset:
    meta = read_json(matches[0])
    try:
        classes = [
            str(entry["title"]) for entry in meta["classes"] if entry.get("shape") not in ("point", "line", "graph")
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{matches[0]} is not a Supervisely meta.json: it has no list of classes with titles"
        ) from error
    folders, notes = _folders(dataset_path), []
    by_split = {folder.lower(): [folder] for folder in folders if folder.lower() in SPLITS}
    if by_split and len(by_split) == len(folders):
        groups = by_split
    else:
        groups = {"all": folders}
        if len(folders) > 1:
            notes.append(f"the datasets {', '.join(folders)} are not named like splits and are merged")
    splits = {
        name: Split(supervisely_dataset, {"root": str(dataset_path), "folders": group, "class_names": classes})
        for name, group in groups.items()
    }
    return assemble_dataset("Supervisely", dataset_path, classes, splits, notes)


SUPERVISELY = Format("Supervisely", "meta.json with <dataset>/ann and <dataset>/img", _find_matches, _describe)
