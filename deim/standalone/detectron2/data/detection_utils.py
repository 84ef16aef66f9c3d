"""Reading of images."""

import numpy as np
from detectron2.utils.file_io import PathManager
from PIL import ExifTags, Image

__all__ = ["SizeMismatchError", "check_image_size", "read_image"]


# PIL's transposition for each EXIF orientation; 1 is upright.
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class SizeMismatchError(ValueError):
    """An image whose size differs from its dataset record."""


def read_image(file_name, format=None):
    """Read an image and apply its EXIF orientation.

    Args:
        file_name: path of the image.
        format: a mode of PIL such as "RGB" or "L", or "BGR"; None keeps the mode of the file.

    Returns:
        Array of shape (H, W, 3) for "RGB" and "BGR", (H, W, 1) for "L", and as PIL converts the image for other modes;
        uint8 in most modes.

    Raises:
        NotImplementedError: if the format is "YUV-BT.601".
        ValueError: if PIL does not know the format.
    """
    if format == "YUV-BT.601":
        raise NotImplementedError(
            "The bundled subset of detectron2 does not convert images to YUV; install detectron2."
        )
    with PathManager.open(file_name, "rb") as f:
        image = _apply_orientation(Image.open(f))
        if format is not None:
            image = image.convert("RGB" if format == "BGR" else format)
        array = np.asarray(image)
    if format == "L":
        return array[..., None]
    return array[..., ::-1] if format == "BGR" else array


def _apply_orientation(image: Image.Image) -> Image.Image:
    # ImageOps.exif_transpose also rewrites the EXIF data, which raises errors if other tags are malformed.
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # unreadable EXIF data are ignored, as in detectron2
        return image
    return image.transpose(_TRANSPOSITIONS[orientation]) if orientation in _TRANSPOSITIONS else image


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
