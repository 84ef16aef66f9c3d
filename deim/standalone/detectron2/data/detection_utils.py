"""Reading of images."""

import numpy as np
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageOps

__all__ = ["SizeMismatchError", "check_image_size", "read_image"]


class SizeMismatchError(ValueError):
    """An image whose size differs from its dataset record."""


def read_image(file_name, format=None):
    """Read an image and apply its EXIF orientation.

    Args:
        file_name: path of the image.
        format: a mode of PIL such as "RGB" or "L", or "BGR"; None keeps the mode of the file.

    Returns:
        Array of shape (H, W, 3), (H, W, 1) for "L", or the shape of another mode; uint8 in most modes.

    Raises:
        NotImplementedError: if the format is "YUV-BT.601".
        ValueError: if PIL does not know the format.
    """
    if format == "YUV-BT.601":
        raise NotImplementedError(
            "The bundled subset of detectron2 does not convert images to YUV; install detectron2."
        )
    with PathManager.open(file_name, "rb") as f:
        image = ImageOps.exif_transpose(Image.open(f))
        if format is not None:
            image = image.convert("RGB" if format == "BGR" else format)
        array = np.asarray(image)
    if format == "L":
        return array[..., None]
    return array[..., ::-1] if format == "BGR" else array


def check_image_size(dataset_dict, image):
    """Check the size of an image against ``height`` and ``width`` of its record; add them if both are missing.

    Raises:
        KeyError: if the record has only one of the two keys.
        SizeMismatchError: if the sizes differ.
    """
    actual_size = (image.shape[1], image.shape[0])
    if "width" not in dataset_dict and "height" not in dataset_dict:
        dataset_dict["width"], dataset_dict["height"] = actual_size
        return
    expected_size = (dataset_dict["width"], dataset_dict["height"])
    if actual_size != expected_size:
        suffix = f" for image {dataset_dict['file_name']}" if "file_name" in dataset_dict else ""
        raise SizeMismatchError(
            f"Mismatched image shape{suffix}, got {actual_size}, expect {expected_size}. "
            "Please check the width/height in your annotation."
        )
