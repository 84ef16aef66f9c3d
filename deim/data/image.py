"""Reading images of any format as 8-bit RGB."""

import os
from pathlib import Path
from typing import Protocol

# Protection from decompression bombs: a file of a few kilobytes may decode to gigabytes. The default is the limit above
# which PIL refuses images. OpenCV reads the variable when cv2 is imported, so the variable is set first.
MAX_PIXELS = int(os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(178_956_970)))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from detectron2.data import detection_utils  # noqa: E402
from detectron2.utils.file_io import PathManager  # noqa: E402
from PIL import ExifTags, Image  # noqa: E402

import deim.data.shards  # noqa: E402, F401 - registers the handler for tar:// paths
from deim.errors import DatasetError  # noqa: E402

# PIL warns above its limit and raises an error above twice the limit.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2

_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
# OpenCV 5 decodes to RGB, which saves a pass over the pixels.
_DECODES_RGB = int(cv2.__version__.partition(".")[0]) >= 5
if _DECODES_RGB:
    _FLAGS = {reduction: flags & ~cv2.IMREAD_COLOR | cv2.IMREAD_COLOR_RGB for reduction, flags in _FLAGS.items()}
# First and last bytes of a complete file, by format.
_SIGNATURES = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND\xaeB`\x82"}


class ImageReader(Protocol):
    """An image reader with the signature of :func:`read_image`."""

    def __call__(self, file_name: str, size: tuple[int, int] | None = None, reduction: int = 1) -> np.ndarray: ...


def read_image(file_name: str, size: tuple[int, int] | None = None, reduction: int = 1) -> np.ndarray:
    """Decode an image file with OpenCV, or with PIL if OpenCV cannot decode it.

    Gray, palette, CMYK and 16-bit images become 8-bit RGB; transparency is dropped.

    Args:
        file_name: path of the image.
        size: (height, width) that the annotations refer to. The EXIF rotation is applied only if the rotated image has
            this size; without ``size`` it is always applied. The size of the file may differ by less than ``reduction``
            pixels.
        reduction: 1, 2, 4 or 8; the image is decoded at ``1 / reduction`` of its size, which is faster for JPEG.

    Returns:
        uint8 (H, W, 3).

    Raises:
        DatasetError: if the file is missing, truncated or not an image, or has another size.
    """
    try:
        data = read_bytes(file_name)
    except OSError as error:
        raise DatasetError(f"cannot read image {file_name}: {error.strerror}") from error
    if not _is_complete(data):
        _read_with_pil(file_name)  # raises if the file is truncated
    image = _decode(data, _FLAGS[reduction])
    if image is None:
        image = _read_with_pil(file_name)[::reduction, ::reduction]
    if size is None or _has_size(image, size, reduction):
        return image
    unrotated = _decode(data, _FLAGS[reduction] | cv2.IMREAD_IGNORE_ORIENTATION)
    if unrotated is not None and _has_size(unrotated, size, reduction):
        return unrotated
    height, width = read_image(file_name).shape[:2] if reduction > 1 else image.shape[:2]
    raise DatasetError(
        f"image {file_name} is {width} x {height} (width x height), but its annotations are for {size[1]} x {size[0]}"
    )


def read_bytes(file_name: str) -> bytes:
    """Return the content of a file, which may have a scheme such as ``tar://``."""
    if "://" not in file_name:
        return Path(file_name).read_bytes()
    with PathManager.open(file_name, "rb") as file:
        return file.read()


def _is_complete(data: bytes) -> bool:
    end = next((end for start, end in _SIGNATURES.items() if data.startswith(start)), None)
    return end is None or data.endswith(end)


def _decode(data: bytes, flags: int) -> np.ndarray | None:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:  # for example, an excessive image size
        return None
    return image if image is None or _DECODES_RGB else cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def _read_with_pil(file_name: str) -> np.ndarray:
    try:
        with PathManager.open(file_name, "rb") as file, Image.open(file) as image:
            if image.format == "TIFF" and image.mode in ("F", "I"):
                raise DatasetError(
                    f"cannot read image {file_name}: it has 32-bit gray values, whose range is not known: convert it to 8 or 16 "
                    "bits"
                )
        return np.ascontiguousarray(detection_utils.read_image(file_name, format="RGB"))
    except Image.DecompressionBombError as error:
        raise DatasetError(
            f"cannot read image {file_name}: it has more than {MAX_PIXELS:,} pixels. To read it, set the environment "
            "variable OPENCV_IO_MAX_IMAGE_PIXELS to a higher limit, or split the image into tiles"
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise DatasetError(f"cannot read image {file_name}: {error}") from error


def _has_size(image: np.ndarray, size: tuple[int, int], reduction: int) -> bool:
    return all(abs(side - full_side / reduction) < 1 for side, full_side in zip(image.shape, size, strict=False))


IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
_WIDTH_TAG, _HEIGHT_TAG = 256, 257  # of TIFF files
_SWAPPED_SIDES = {5, 6, 7, 8}  # EXIF orientations that swap the sides


def image_size(file_name: str) -> tuple[int, int]:
    """Return (height, width) of an image after EXIF rotation; only the header is read.

    Raises:
        DatasetError: if the file is missing or not an image.
    """
    try:
        with PathManager.open(file_name, "rb") as file, Image.open(file) as image:
            width, height = image.size
            is_swapped = image.getexif().get(ExifTags.Base.Orientation) in _SWAPPED_SIDES
            if image.format == "TIFF":  # recent versions of PIL state the sides of TIFF files after the rotation
                tags = getattr(image, "tag_v2", {})
                is_swapped = is_swapped and (width, height) == (tags.get(_WIDTH_TAG), tags.get(_HEIGHT_TAG))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(f"cannot read image {file_name}: {error}") from error
    return (width, height) if is_swapped else (height, width)
