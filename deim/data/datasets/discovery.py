"""What is at a path: which format of data set, its splits and its classes."""

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

# If a path has the signs of several formats, the first one is read.
FORMATS = (YOLO, DARKNET, VOC, COCO, CVAT, SUPERVISELY, LABELME, VIA, OPEN_IMAGES, PARQUET, YOLO_FOLDER)


def discover(path: str, images: str | None = None) -> Discovered:
    """Recognize the data set at a path.

    Args:
        path: A folder, or a file that describes a data set. If a folder is in no known format, but exactly one of its
            subfolders is, that one is read.
        images: The folder of the images, if they are elsewhere than the annotations.

    Returns:
        The format, the classes, the splits, and notes of what had to be guessed.

    Raises:
        DatasetError: There is no data set in a known format, or it has nothing to train on. The message lists what was
            looked for and what is there.
    """
    place, folder = Path(path), None if images is None else Path(images)
    if not place.exists():
        raise DatasetError(f"there is no data at {path}")
    if folder is not None and not folder.is_dir():
        raise DatasetError(f"the folder of images {images} does not exist")
    if place.is_file() and (zipfile.is_zipfile(place) or tarfile.is_tarfile(place)):
        raise DatasetError(f"{path} is an archive: unpack it, and give the folder")
    signs = {one.name: one.signs(place) for one in FORMATS}
    matching = [one for one in FORMATS if signs[one.name]]
    if not matching:
        inside = [one for one in (subfolders(place) if place.is_dir() else ()) if any(f.signs(one) for f in FORMATS)]
        if len(inside) == 1:  # an archive that was unpacked into a folder of its name
            found = discover(str(inside[0]), images)
            return replace(found, notes=[*found.notes, f"the data set in {inside[0].name}/ is read"])
        if inside:
            raise DatasetError(
                f"{path} holds several data sets, {', '.join(f'{one.name}/' for one in inside)}: give the folder of one of them"
            )
        looked_for = "".join(f"\n  {one.name}: {one.looks_for}" for one in FORMATS)
        raise DatasetError(
            f"{path} has nothing to train on: no known format was found. There is {what_is_there(place)}. "
            f"Looked for:{looked_for}"
        )
    first, *others = matching
    if first in (YOLO, DARKNET):  # whose labels and images are those of YOLO_FOLDER
        others = [one for one in others if one is not YOLO_FOLDER]
    if folder is not None and not first.takes_images:
        raise DatasetError(f"{path} is {first.name}, which says itself where its images are: leave --image-root out")
    found = first.describe(place, signs[first.name], folder)
    if others:
        told = ", ".join(f"{one.name} ({signs[one.name][0].name})" for one in others)
        note = f"{first.name} is read ({signs[first.name][0].name}), and not {told}, which is there as well"
        return replace(found, notes=[*found.notes, note])
    return found
