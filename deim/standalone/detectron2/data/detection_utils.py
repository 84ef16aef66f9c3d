"""Reading of images."""

import numpy as np
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageOps

__all__ = ["SizeMismatchError", "check_image_size", "read_image"]


class SizeMismatchError(ValueError):
    """An image has not the size its record states."""


def read_image(file_name, format=None):
    """Read an image, turned as its EXIF orientation says.

    Args:
        format: a PIL mode such as "RGB" or "L", or "BGR".

    Returns:
        uint8 array of shape (H, W, 3), or (H, W, 1) for "L".
    """
    with PathManager.open(file_name, "rb") as f:
        image = ImageOps.exif_transpose(Image.open(f))
        if format is not None:
            image = image.convert("RGB" if format == "BGR" else format)
        array = np.asarray(image)
    if format == "L":
        return array[..., None]
    return array[..., ::-1] if format == "BGR" else array


def check_image_size(dataset_dict, image):
    """Compare ``image`` with the record's ``height`` and ``width``, and fill them in where missing.

    Raises:
        SizeMismatchError: they differ.
    """
    found = (image.shape[1], image.shape[0])
    stated = (dataset_dict.setdefault("width", found[0]), dataset_dict.setdefault("height", found[1]))
    if found != stated:
        where = f" for image {dataset_dict['file_name']}" if "file_name" in dataset_dict else ""
        raise SizeMismatchError(f"Mismatched image shape{where}, got {found}, expect {stated}.")
