"""Input images of a predictor, and their conversion to 8-bit RGB."""

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from detectron2.data import transforms as T
from PIL import Image

from deim.data.image import IMAGE_SUFFIXES, read_image
from deim.errors import DatasetError

Picture: TypeAlias = str | Path | np.ndarray | Image.Image | torch.Tensor
CHANNELS = ("RGB", "BGR")


def listed(pictures: Picture | Iterable[Picture]) -> Iterator[Picture]:
    """Yield single images in order. Files of a directory or a pattern such as ``"photos/*.jpg"`` are sorted by name.

    Raises:
        DatasetError: if a directory or pattern has no images, or a URL is given.
    """
    if isinstance(pictures, str | Path):
        yield from _files(str(pictures))
    elif isinstance(pictures, np.ndarray | torch.Tensor):
        yield from pictures if pictures.ndim == 4 else (pictures,)
    elif isinstance(pictures, Image.Image):
        yield pictures
    else:
        for one in pictures:
            yield from listed(one)


def _files(path: str) -> Iterator[str]:
    if "://" in path:
        raise DatasetError(f"{path} is a URL: download the image and give the path of the file")
    if Path(path).is_dir():
        found = sorted(str(file) for file in Path(path).iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise DatasetError(f"the directory {path} has no images with suffix {', '.join(sorted(IMAGE_SUFFIXES))}")
        yield from found
    elif not Path(path).exists() and glob.has_magic(path):
        found = sorted(file for file in glob.glob(path, recursive=True) if Path(file).is_file())
        if not found:
            raise DatasetError(f"no file matches {path}")
        yield from found
    else:
        yield path


def name_of(picture: Picture) -> str | None:
    """Return the path of an image that comes from a file, else None."""
    if isinstance(picture, Image.Image):
        return getattr(picture, "filename", None) or None
    return str(picture) if isinstance(picture, str | Path) else None


def as_rgb(picture: Picture, channels: str = "RGB") -> np.ndarray:
    """Convert an image to an RGB array.

    Args:
        picture: path of a file that :func:`deim.data.image.read_image` reads; PIL image; uint8 array (H, W, 3) or
            (H, W); or uint8 tensor (3, H, W).
        channels: channel order of arrays and tensors, "RGB" or "BGR"; ignored for other images.

    Returns:
        uint8 (H, W, 3).

    Raises:
        DatasetError: if a file cannot be read, or an array has the wrong shape or dtype.
    """
    if isinstance(picture, str | Path):
        return read_image(str(picture))
    if isinstance(picture, Image.Image):
        return np.array(picture.convert("RGB"))
    if isinstance(picture, torch.Tensor):
        _check(
            picture, str(picture.dtype) == "torch.uint8" and picture.ndim == 3 and picture.shape[0] == 3, "(3, H, W)"
        )
        array = picture.permute(1, 2, 0).cpu().numpy()
    else:
        gray = picture.ndim == 2
        fits = picture.dtype == np.uint8 and (gray or (picture.ndim == 3 and picture.shape[2] == 3))
        _check(picture, fits and picture.size > 0, "(H, W, 3)")
        array = np.repeat(picture[..., None], 3, axis=2) if gray else picture
    return np.ascontiguousarray(array[..., ::-1] if channels == "BGR" else array)


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 (H, W, 3) to another (height, width), as the recipes resize test images."""
    return T.Resize(list(size)).get_transform(image).apply_image(image)


def network_input(image: np.ndarray, size: tuple[int, int], channels: str) -> np.ndarray:
    """Convert uint8 (H, W, 3) RGB to the input of an exported file: (3, height, width), in its channel order."""
    shown = resized(image, size)
    return np.ascontiguousarray((shown[..., ::-1] if channels == "BGR" else shown).transpose(2, 0, 1))


def _check(picture: np.ndarray | torch.Tensor, fits: bool, wanted: str) -> None:
    if not fits:
        raise DatasetError(
            f"images in memory must be uint8 {wanted} with values from 0 to 255, not scaled or normalized; "
            f"got {str(picture.dtype).removeprefix('torch.')} {tuple(picture.shape)}"
        )
