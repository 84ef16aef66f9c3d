"""Input images of a predictor, and their conversion to 8-bit RGB."""

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from detectron2.data import transforms as T
from PIL import Image, ImageOps

from deim.data.image import IMAGE_SUFFIXES, read_image
from deim.errors import DatasetError
from deim.inference.addresses import WEB_SCHEMES, download_image, is_address, scheme, without_password

ImageLike: TypeAlias = str | Path | np.ndarray | Image.Image | torch.Tensor
CHANNEL_ORDERS = ("RGB", "BGR")


def iterate_images(images: ImageLike | Iterable[ImageLike]) -> Iterator[ImageLike]:
    """Yield single images in order. Files of a directory or a pattern such as ``"photos/*.jpg"`` are sorted by name.

    Raises:
        DatasetError: if a directory or pattern has no images, or an address is not one of a web server.
    """
    if isinstance(images, str | Path):
        yield from _image_files(str(images))
    elif isinstance(images, np.ndarray | torch.Tensor):
        yield from images if images.ndim == 4 else (images,)
    elif isinstance(images, Image.Image):
        yield images
    else:
        for item in images:
            yield from iterate_images(item)


def _image_files(path: str) -> Iterator[str]:
    if is_address(path):
        if scheme(path) not in WEB_SCHEMES:
            raise DatasetError(f"{without_password(path)} is a stream: give open_frames(address) in its place")
        yield path
    elif Path(path).is_dir():
        files = sorted(str(file) for file in Path(path).iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise DatasetError(f"the directory {path} has no images with suffix {', '.join(sorted(IMAGE_SUFFIXES))}")
        yield from files
    elif not Path(path).exists() and glob.has_magic(path):
        files = sorted(file for file in glob.glob(path, recursive=True) if Path(file).is_file())
        if not files:
            raise DatasetError(f"no file matches {path}")
        yield from files
    else:
        yield path


def image_path(image: ImageLike) -> str | None:
    """Return the path or address (without password) of an image that comes from a file, else None."""
    if isinstance(image, Image.Image):
        return getattr(image, "filename", None) or None
    return without_password(str(image)) if isinstance(image, str | Path) else None


def as_rgb(image: ImageLike, channels: str = "RGB") -> np.ndarray:
    """Convert an image to an RGB array.

    Args:
        image: path of a file that :func:`deim.data.image.read_image` reads; address (http, https); PIL image; uint8
            array (H, W, 3) or (H, W); or uint8 tensor (3, H, W).
        channels: channel order of arrays and tensors, "RGB" or "BGR"; ignored for other images.

    Returns:
        uint8 (H, W, 3).

    Raises:
        DatasetError: if a file cannot be read or downloaded, or an array has the wrong shape or dtype.
    """
    if isinstance(image, str) and is_address(image):
        return download_image(image)
    if isinstance(image, str | Path):
        return read_image(str(image))
    if isinstance(image, Image.Image):
        return _from_pil(image)
    if isinstance(image, torch.Tensor):
        _check_array(image, str(image.dtype) == "torch.uint8" and image.ndim == 3 and image.shape[0] == 3, "(3, H, W)")
        array = image.permute(1, 2, 0).cpu().numpy()
    else:
        is_gray = image.ndim == 2
        is_valid = image.dtype == np.uint8 and (is_gray or (image.ndim == 3 and image.shape[2] == 3))
        _check_array(image, is_valid and image.size > 0, "(H, W, 3)")
        array = np.repeat(image[..., None], 3, axis=2) if is_gray else image
    return np.ascontiguousarray(array[..., ::-1] if channels == "BGR" else array)


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 (H, W, 3) to another (height, width), as the recipes resize test images."""
    return T.Resize(list(size)).get_transform(image).apply_image(image)


def to_network_input(image: np.ndarray, size: tuple[int, int], channels: str) -> np.ndarray:
    """Convert uint8 (H, W, 3) RGB to the input of an exported file: (3, height, width), in its channel order."""
    pixels = resize_image(image, size)
    return np.ascontiguousarray((pixels[..., ::-1] if channels == "BGR" else pixels).transpose(2, 0, 1))


def _from_pil(image: Image.Image) -> np.ndarray:
    """Return the pixels that :func:`read_image` returns for the same file."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return np.array(image.convert("RGB"))


def _check_array(array: np.ndarray | torch.Tensor, is_valid: bool, expected_shape: str) -> None:
    if not is_valid:
        raise DatasetError(
            f"images in memory must be uint8 {expected_shape} with values from 0 to 255, not scaled or normalized; "
            f"got {str(array.dtype).removeprefix('torch.')} {tuple(array.shape)}"
        )
