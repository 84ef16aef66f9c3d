"""A batch of images of possibly different sizes, padded into one tensor."""

import torch
from torch import Tensor
from torch.nn import functional as F


class ImageList:
    """``tensor`` (N, C, H, W) and ``image_sizes`` [(height, width)] of the images before padding."""

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]):
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx) -> Tensor:
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    @staticmethod
    def from_tensors(tensors, size_divisibility=0, pad_value=0.0, padding_constraints=None) -> "ImageList":
        """Pad (C, Hi, Wi) tensors at the bottom and right to a common size.

        Args:
            size_divisibility: when above 1, height and width become multiples of it.
            padding_constraints: ``{"square_size": S}`` pads to S x S.
        """
        sizes = [(int(t.shape[-2]), int(t.shape[-1])) for t in tensors]
        height, width = (max(side) for side in zip(*sizes, strict=True))
        square = (padding_constraints or {}).get("square_size", 0)
        if square:
            height = width = square
        divisor = max(size_divisibility, 1)
        height, width = (-(-side // divisor) * divisor for side in (height, width))
        padded = [
            F.pad(t, (0, width - w, 0, height - h), value=pad_value) for t, (h, w) in zip(tensors, sizes, strict=True)
        ]
        return ImageList(torch.stack(padded), sizes)
