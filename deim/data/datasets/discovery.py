"""Detection of the dataset format, splits and classes at a path."""

import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

from deim.data.datasets.formats.coco import COCO
from deim.data.datasets.formats.cvat import CVAT
from deim.data.datasets.formats.darknet import DARKNET
from deim.data.datasets.formats.labelme import LABELME
from deim.data.datasets.formats.open_images import OPEN_IMAGES
from deim.data.datasets.formats.parquet import PARQUET
from deim.data.datasets.formats.supervisely import SUPERVISELY
from deim.data.datasets.formats.via import VIA
from deim.data.datasets.formats.voc import VOC
from deim.data.datasets.formats.yolo import YOLO
from deim.data.datasets.formats.yolo_folder import YOLO_FOLDER
from deim.data.datasets.found import Discovered, subfolders, what_is_there
from deim.errors import DatasetError

# In order of precedence: if a path matches several formats, the first one is used.
FORMATS = (YOLO, DARKNET, VOC, COCO, CVAT, SUPERVISELY, LABELME, VIA, OPEN_IMAGES, PARQUET, YOLO_FOLDER)


def discover(path: str, images: str | None = None) -> Discovered:
    """Detect the dataset at a path.

    Args:
        path: a folder, or a file that describes a dataset. If a folder matches no known format but exactly one of its
            subfolders does, that subfolder is used.
        images: the image folder, if the images are not stored with the annotations.

    Returns:
        the format, classes and splits, with a note for each assumption made.

    Raises:
        DatasetError: if the path contains no dataset in a known format, or the dataset has no split to train on. The
            message lists the expected files and the contents of the folder.
    """
    place, folder = Path(path), None if images is None else Path(images)
    if not place.exists():
        raise DatasetError(f"{path} does not exist")
    if folder is not None and not folder.is_dir():
        raise DatasetError(f"the image folder {images} does not exist")
    if place.is_file() and (zipfile.is_zipfile(place) or tarfile.is_tarfile(place)):
        raise DatasetError(f"{path} is an archive; unpack it and pass the extracted folder")
    signs = {one.name: one.signs(place) for one in FORMATS}
    matching = [one for one in FORMATS if signs[one.name]]
    if not matching:
        inside = [one for one in (subfolders(place) if place.is_dir() else ()) if any(f.signs(one) for f in FORMATS)]
        if len(inside) == 1:  # archives are often unpacked into a folder of their own name
            found = discover(str(inside[0]), images)
            return replace(found, notes=[*found.notes, f"using the dataset in {inside[0].name}/"])
        if inside:
            raise DatasetError(
                f"{path} contains several datasets, {', '.join(f'{one.name}/' for one in inside)}; pass one of them"
            )
        looked_for = "".join(f"\n  {one.name}: {one.looks_for}" for one in FORMATS)
        raise DatasetError(
            f"{path} contains no dataset in a known format. Found: {what_is_there(place)}. "
            f"Supported formats:{looked_for}"
        )
    first, *others = matching
    if first in (YOLO, DARKNET):  # their labels and images also match YOLO_FOLDER
        others = [one for one in others if one is not YOLO_FOLDER]
    if folder is not None and not first.takes_images:
        raise DatasetError(f"{path} is in {first.name} format, which specifies the image paths; remove --image-root")
    found = first.describe(place, signs[first.name], folder)
    if others:
        told = ", ".join(f"{one.name} ({signs[one.name][0].name})" for one in others)
        note = f"reading the {first.name} annotations ({signs[first.name][0].name}); ignoring {told}"
        return replace(found, notes=[*found.notes, note])
    return found
