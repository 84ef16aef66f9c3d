"""What is at a path: which format of data set, its splits and its classes."""

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
from deim.data.datasets.found import Discovered, what_is_there
from deim.errors import DatasetError

# If a path has the signs of several formats, the first one is read.
FORMATS = (YOLO, DARKNET, VOC, COCO, CVAT, SUPERVISELY, LABELME, VIA, OPEN_IMAGES, PARQUET, YOLO_FOLDER)


def discover(path: str, images: str | None = None) -> Discovered:
    """Recognize the data set at a path.

    Args:
        path: A folder, or a file that describes a data set.
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
    signs = {one.name: one.signs(place) for one in FORMATS}
    matching = [one for one in FORMATS if signs[one.name]]
    if not matching:
        looked_for = "".join(f"\n  {one.name}: {one.looks_for}" for one in FORMATS)
        raise DatasetError(
            f"{path} has nothing to train on: no known format was found. There is {what_is_there(place)}. "
            f"Looked for:{looked_for}"
        )
    first, *others = matching
    if first in (YOLO, DARKNET):
        others = [one for one in others if one is not YOLO_FOLDER]  # the labels that it describes
    if folder is not None and not first.takes_images:
        raise DatasetError(f"{path} is {first.name}, which says itself where its images are: leave --image-root out")
    found = first.describe(place, signs[first.name], folder)
    if others:
        told = ", ".join(f"{one.name} ({signs[one.name][0].name})" for one in others)
        note = f"{first.name} is read ({signs[first.name][0].name}), and not {told}, which is there as well"
        return Discovered(found.format, found.classes, found.train, found.test, [*found.notes, note])
    return found
