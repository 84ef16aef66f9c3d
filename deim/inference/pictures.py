"""What a predictor can be given to look at, and how it becomes 8-bit RGB."""

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
    """Single pictures, in order: those of a folder and of a pattern such as ``"photos/*.jpg"`` by name.

    Raises:
        DatasetError: a folder or a pattern has none, or an address is given.
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
        raise DatasetError(f"{path} is an address: download the picture and give the path of the file")
    if Path(path).is_dir():
        found = sorted(str(file) for file in Path(path).iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise DatasetError(f"the folder {path} has no pictures: none of {', '.join(sorted(IMAGE_SUFFIXES))}")
        yield from found
    elif not Path(path).exists() and glob.has_magic(path):
        found = sorted(file for file in glob.glob(path, recursive=True) if Path(file).is_file())
        if not found:
            raise DatasetError(f"no file is called {path}")
        yield from found
    else:
        yield path


def name_of(picture: Picture) -> str | None:
    """The path of a picture that is a file."""
    if isinstance(picture, Image.Image):
        return getattr(picture, "filename", None) or None
    return str(picture) if isinstance(picture, str | Path) else None


def as_rgb(picture: Picture, channels: str = "RGB") -> np.ndarray:
    """
    Args:
        picture: a file, of any kind that :func:`deim.data.image.read_image` reads; a picture of PIL; an array
            (H, W, 3) or (H, W); or a tensor (3, H, W). Arrays and tensors are of bytes.
        channels: order of those of arrays and tensors, "RGB" or "BGR"; that of other pictures is known.

    Returns:
        uint8 (H, W, 3).

    Raises:
        DatasetError: a file cannot be read, or an array has another shape or type.
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
    """uint8 (H, W, 3) at another (height, width), as the recipes resize their test images."""
    return T.Resize(list(size)).get_transform(image).apply_image(image)


def network_input(image: np.ndarray, size: tuple[int, int], channels: str) -> np.ndarray:
    """uint8 (H, W, 3) RGB as an exported file takes it: (3, height, width), in its order of channels."""
    shown = resized(image, size)
    return np.ascontiguousarray((shown[..., ::-1] if channels == "BGR" else shown).transpose(2, 0, 1))


def _check(picture: np.ndarray | torch.Tensor, fits: bool, wanted: str) -> None:
    if not fits:
        raise DatasetError(
            f"a picture in memory is uint8 {wanted} with values from 0 to 255, neither scaled nor normalized; "
            f"got {str(picture.dtype).removeprefix('torch.')} {tuple(picture.shape)}"
        )
