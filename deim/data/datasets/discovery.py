"""Detection of the dataset format, splits and classes at a path."""

import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

from deim.data.datasets.dataset_format import DiscoveredDataset, list_subfolders, summarize_folder
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
from deim.errors import DatasetError

# In order of precedence: if a path matches several formats, the first one is used.
FORMATS = (YOLO, DARKNET, VOC, COCO, CVAT, SUPERVISELY, LABELME, VIA, OPEN_IMAGES, PARQUET, YOLO_FOLDER)


def discover(path: str, images: str | None = None) -> DiscoveredDataset:
    """Detect the dataset at a path.

    Args:
        path: a folder, or a file that describes a dataset. If a folder matches no known format but exactly one of its
            subfolders does, that subfolder is used.
        images: the image folder, if the images are not stored with the annotations.

    Returns:
        the format, classes and splits, with a note for each assumption made.

    Raises:
        DatasetError: if the path contains no dataset in a known format (the message lists the expected files and the
            contents of the folder), or the dataset is malformed or has no split to train on.
    """
    root, image_root = Path(path), None if images is None else Path(images)
    if not root.exists():
        raise DatasetError(f"{path} does not exist")
    if image_root is not None and not image_root.is_dir():
        raise DatasetError(f"the image folder {images} does not exist")
    if root.is_file() and (zipfile.is_zipfile(root) or tarfile.is_tarfile(root)):
        raise DatasetError(f"{path} is an archive; unpack it and pass the extracted folder")
    matches = {candidate.name: candidate.find_matches(root) for candidate in FORMATS}
    matching = [candidate for candidate in FORMATS if matches[candidate.name]]
    if not matching:
        subfolders = list_subfolders(root) if root.is_dir() else []
        datasets = [folder for folder in subfolders if any(candidate.find_matches(folder) for candidate in FORMATS)]
        if len(datasets) == 1:  # archives are often unpacked into a folder of their own name
            dataset = discover(str(datasets[0]), images)
            return replace(dataset, notes=[*dataset.notes, f"using the dataset in {datasets[0].name}/"])
        if datasets:
            names = ", ".join(f"{folder.name}/" for folder in datasets)
            raise DatasetError(f"{path} contains several datasets, {names}; pass one of them")
        supported = "".join(f"\n  {candidate.name}: {candidate.expected_files}" for candidate in FORMATS)
        raise DatasetError(
            f"{path} contains no dataset in a known format. Found: {summarize_folder(root)}. "
            f"Supported formats:{supported}"
        )
    first, *others = matching
    if first in (YOLO, DARKNET):  # their labels and images also match YOLO_FOLDER
        others = [candidate for candidate in others if candidate is not YOLO_FOLDER]
    if image_root is not None and not first.accepts_image_root:
        raise DatasetError(
            f"{path} is in {first.name} format, for which no image folder can be set; remove --image-root"
        )
    dataset = first.describe(root, matches[first.name], image_root)
    if others:
        ignored = ", ".join(f"{candidate.name} ({matches[candidate.name][0].name})" for candidate in others)
        note = f"reading the {first.name} annotations ({matches[first.name][0].name}); ignoring {ignored}"
        return replace(dataset, notes=[*dataset.notes, note])
    return dataset
