"""A batch of images of different sizes, padded into one tensor."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class ImageList:
    """A batch of padded images.

    Attributes:
        tensor: the batch, shape (N, C, H, W) or (N, H, W).
        image_sizes: (height, width) of each image before padding.
    """

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]):
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx) -> Tensor:
        """Return one image without its padding."""
        size = self.image_sizes[idx]
        return self.tensor[idx, ..., : size[0], : size[1]]

    def to(self, *args: Any, **kwargs: Any) -> "ImageList":
        """Return a batch with ``Tensor.to(*args, **kwargs)`` applied to its tensor."""
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: list[Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: dict[str, int] | None = None,
    ) -> "ImageList":
        """Pad images at the bottom and right to a common size.

        Args:
            tensors: images of shape (C, Hi, Wi) or (Hi, Wi). The batch has the dtype of the first image.
            size_divisibility: if greater than 1, height and width of the batch become multiples of it.
            pad_value: value of the padded pixels.
            padding_constraints: may contain "square_size" (side of the batch in pixels; 0 has no effect) and
                "size_divisibility" (replaces the argument of that name).

        Raises:
            AssertionError: if ``tensors`` is empty, or its entries are not tensors or have different channels.
        """
        if not len(tensors) or not isinstance(tensors, (list, tuple)):
            raise AssertionError("ImageList.from_tensors needs a non-empty list of tensors")
        for image in tensors:
            if not isinstance(image, Tensor):
                raise AssertionError(f"ImageList.from_tensors needs tensors, got {type(image)}")
            if image.shape[:-2] != tensors[0].shape[:-2]:
                raise AssertionError(f"The channels differ: {[tuple(t.shape) for t in tensors]}")
        sizes = [_size(image) for image in tensors]
        height, width = _padded_size(sizes, size_divisibility, padding_constraints or {})
        if len(tensors) == 1:
            ((h, w),) = sizes
            batch = F.pad(tensors[0], (0, width - w, 0, height - h), value=pad_value)[None]
        else:
            batch = tensors[0].new_full((len(tensors), *tensors[0].shape[:-2], height, width), pad_value)
            for canvas, image in zip(batch, tensors, strict=True):
                canvas[..., : image.shape[-2], : image.shape[-1]].copy_(image)
        return ImageList(batch.contiguous(), sizes)


def _size(image: Tensor) -> tuple[int, int]:
    """Return (height, width). While a graph is traced, both are tensors that stay in the graph."""
    height, width = image.shape[-2:]
    if torch.jit.is_tracing():
        return torch.as_tensor(height), torch.as_tensor(width)  # type: ignore[return-value]
    return int(height), int(width)


def _padded_size(sizes: list[tuple[int, int]], divisor: int, constraints: dict[str, int]) -> tuple[int, int]:
    """Return (height, width) of the batch for images of these sizes."""
    square = constraints.get("square_size", 0)
    height, width = (max(side) for side in zip(*sizes, strict=True))
    if square > 0:
        height = width = square
    divisor = max(constraints.get("size_divisibility", divisor), 1)
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor
