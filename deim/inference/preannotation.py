"""Image files of detections, for annotation tools."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from deim.inference.addresses import is_address
from deim.inference.detections import Detections


def image_file(detections: Detections, name: str, folder: Path) -> Path:
    """Return the path of the image of detections.

    Frames of videos, images in memory and downloaded images have no file: they are written to ``frames/<name>.jpg``,
    because an annotation tool shows the image.

    Args:
        detections: detections in one image.
        name: file name without suffix of an image that is written.
        folder: output folder.
    """
    if detections.file_name and not is_address(detections.file_name):
        return Path(os.path.abspath(detections.file_name))
    path = folder / "frames" / f"{name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(detections.image).save(path, quality=95)
    return Path(os.path.abspath(path))


def run_lengths(values: np.ndarray) -> np.ndarray:
    """Return the lengths of the runs of equal values in an array (N,), of which there is at least one."""
    starts = np.flatnonzero(values[1:] != values[:-1]) + 1
    return np.diff(starts, prepend=0, append=len(values))


def relative_names(files: Sequence[Path]) -> list[str]:
    """Return names of files relative to the folder that contains all of them, with forward slashes.

    Without such a folder, on different drives of Windows, names have no folder.
    """
    try:
        folder = Path(os.path.commonpath([file.parent for file in files]))
    except ValueError:  # also for an empty list
        return [file.name for file in files]
    return [file.relative_to(folder).as_posix() for file in files]
