"""labelme format: one JSON file per image."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from deim.data.datasets.dataset_format import DiscoveredDataset, Format, Split, assemble_dataset, find_split_folders
from deim.data.datasets.image_files import ImageFiles
from deim.data.datasets.parsed_images import ParsedImage, ParsedObject, build_content, parse_entry
from deim.data.datasets.regions import Region, decode_mask_image, ellipse, mask_region, polygon, rectangle
from deim.data.datasets.registration import register_dataset, require_folder
from deim.data.datasets.text import read_class_names, read_json
from deim.data.datasets.validation import DatasetContent, Problem
from deim.errors import DatasetError

_WITHOUT_AREA = ("point", "points", "line", "linestrip")
# Entries of labelme's label list that are not classes.
_NOT_CLASSES = ("__ignore__", "_background_")


def labelme_dataset(
    names: str,
    annotation_root: str,
    image_root: str,
    class_names: Sequence[str],
    max_invalid_records: int = 0,
    masks: bool = False,
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
        masks: whether every object must have a mask; the mask of a rectangle is the rectangle.

    Returns:
        detectron2 records.

    Raises:
        DatasetError: if files are missing or malformed. The message names the file.
    """
    classes = [str(name) for name in class_names]
    read = functools.partial(read_labelme, annotation_root, image_root, classes)
    source = f"{annotation_root}, {image_root}, {classes}"
    return register_dataset(names, source, read, max_invalid_records, masks)


def read_labelme(annotation_root: str, image_root: str, class_names: Sequence[str]) -> DatasetContent:
    """Read the files; see :func:`labelme_dataset`."""
    require_folder(Path(annotation_root))
    images, files = ImageFiles(image_root), _list_json_files(Path(annotation_root))

    def parse_images() -> Iterator[ParsedImage | Problem]:
        for path in files:
            yield parse_entry(_image, str(path), path, Path(annotation_root), images)

    content = build_content(parse_images(), class_names, images, annotation_root)
    content.notes += images.describe_unannotated_images(files, "JSON", content.records)
    return content


def _list_json_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".json" and path.is_file())


def _image(path: Path, root: Path, images: ImageFiles) -> ParsedImage:
    content = read_json(path)
    height, width = content.get("imageHeight"), content.get("imageWidth")
    size = (int(height), int(width)) if height and width else None
    subfolder = path.parent.relative_to(root)
    listed_name = str(content["imagePath"])
    image_path = images.find_by_stem((subfolder / path.stem).as_posix())
    name = listed_name if image_path is None else image_path.relative_to(images.root).as_posix()
    parsed_image = ParsedImage(name, str(path), size)
    for shape in content["shapes"]:
        if shape.get("shape_type") not in _WITHOUT_AREA:
            region = _region(shape, size)
            if region.segmentation is None and shape.get("shape_type") == "rectangle":
                left, top, right, bottom = region.box
                region = polygon([(left, top), (right, top), (right, bottom), (left, bottom)])
            parsed_image.objects.append(ParsedObject(str(shape["label"]), region))
    return parsed_image


def _region(shape: Mapping[str, Any], size: tuple[int, int] | None) -> Region:
    points, kind = shape["points"], shape.get("shape_type") or "polygon"
    if kind == "rectangle" and len(points) == 2:
        return rectangle(*points[0], *points[1])
    if kind == "circle":
        (x, y), (edge_x, edge_y) = points
        radius = ((edge_x - x) ** 2 + (edge_y - y) ** 2) ** 0.5
        return ellipse(x, y, radius, radius)
    if kind == "mask":
        return mask_region(decode_mask_image(shape["mask"]), int(points[0][0]), int(points[0][1]), size)
    return polygon(points)


def _find_matches(dataset_path: Path) -> list[Path]:
    if dataset_path.is_file():
        return [dataset_path] if dataset_path.suffix.lower() == ".json" and _is_labelme(dataset_path) else []
    folders = [dataset_path, *find_split_folders(dataset_path).values()]
    folders += [folder / name for folder in folders[:] for name in ("labels", "annotations", "json", "ann")]
    return [folder for folder in folders if folder.is_dir() and _has_labelme(folder)]


def _has_labelme(folder: Path) -> bool:
    return any(_is_labelme(path) for path in sorted(folder.glob("*.json"))[:5])


def _is_labelme(path: Path) -> bool:
    content = path.read_bytes()
    return b'"shapes"' in content and b'"imagePath"' in content


def _describe(dataset_path: Path, matches: list[Path], image_root: Path | None) -> DiscoveredDataset:
    if dataset_path.is_file():
        raise DatasetError(
            f"{dataset_path} is the labelme file of a single image; pass the folder that contains all files"
        )
    splits: dict[str, Split] = {}
    split_names = {folder: name for name, folder in find_split_folders(dataset_path).items()}
    for folder in matches:
        split_folder = next((candidate for candidate in (folder, folder.parent) if candidate in split_names), None)
        default_root = folder if folder in (dataset_path, *split_names) else folder.parent
        arguments = {"annotation_root": str(folder), "image_root": str(image_root or default_root)}
        name = split_names[split_folder] if split_folder is not None else "all"
        # If a folder and its subfolder match, the folder comes first; its files include those of the subfolder.
        splits.setdefault(name, Split(labelme_dataset, arguments))
    notes: list[str] = []
    classes = _classes(dataset_path, [Path(split.arguments["annotation_root"]) for split in splits.values()], notes)
    for split in splits.values():
        split.arguments["class_names"] = classes
    return assemble_dataset("labelme", dataset_path, classes, splits, notes)


def _classes(dataset_path: Path, folders: Sequence[Path], notes: list[str]) -> list[str]:
    label_list = dataset_path / "labels.txt"
    if label_list.is_file():
        return [name for name in read_class_names(label_list) if name not in _NOT_CLASSES]
    names: set[str] = set()
    files = [path for folder in folders for path in _list_json_files(folder)]
    for path in tqdm(files, "reading class names", delay=2, mininterval=2, unit="file"):
        try:
            shapes = read_json(path)["shapes"]
            names |= {str(shape["label"]) for shape in shapes if shape.get("shape_type") not in _WITHOUT_AREA}
        except (DatasetError, KeyError, TypeError, AttributeError):  # reported when the split is read
            continue
    notes.append("no labels.txt found; using the labels that occur in the shapes, in alphabetical order")
    return sorted(names)


LABELME = Format("labelme", "labelme JSON files, one per image", _find_matches, _describe, accepts_image_root=True)
