"""Masks in the resolution of images: ground truth of a batch, and resizing of predicted masks."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import BitMasks, PolygonMasks
from torch import Tensor
from torch.nn import functional as F

# Pixels of the masks that are resized at once, to limit the memory: 27 masks of 640 x 480 pixels.
_CHUNK_PIXELS = 2**23


def batch_masks(
    masks: Sequence[tuple[Any, tuple[int, int]]], padded_size: tuple[int, int], device: torch.device | str = "cpu"
) -> Tensor:
    """Return the ground-truth masks of a batch. Only the masks are copied to the device, not their padding.

    Args:
        masks: masks of each image with the image's (height, width): ``PolygonMasks``, or ``BitMasks`` or (n, h, w)
            tensors that cover the image at full or reduced resolution; None for an image without objects.
        padded_size: (height, width) of the images with padding.
        device: device of the result.

    Returns:
        (B, T, h, w) uint8, padded to the largest number of objects T, covering the batch including its padding.
    """
    tensors = [None if image_masks is None else _mask_tensor(image_masks, size) for image_masks, size in masks]
    present = [(tensor, size) for tensor, (_, size) in zip(tensors, masks, strict=True) if tensor is not None]
    # All images have the same reduction: mappers rasterize masks at 1 / stride of the image. The sides of a mask are
    # rounded up, so that a short side may suggest a smaller reduction.
    sides = itertools.chain(*(size for _, size in present))
    mask_sides = itertools.chain(*(tensor.shape[-2:] for tensor, _ in present))
    stride = max((-(-side // mask_side) for side, mask_side in zip(sides, mask_sides, strict=True)), default=1)
    height, width = (-(-side // stride) for side in padded_size)
    count = max((len(tensor) for tensor, _ in present), default=0)
    batch = torch.zeros(len(tensors), count, height, width, dtype=torch.uint8, device=device)
    for target, tensor in zip(batch, tensors, strict=True):
        if tensor is not None:
            target[: len(tensor), : tensor.shape[-2], : tensor.shape[-1]] = tensor.to(device, non_blocking=True)
    return batch


def _mask_tensor(masks: Any, size: tuple[int, int]) -> Tensor:
    """Return masks as (n, h, w)."""
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, *size)
    return masks.tensor if isinstance(masks, BitMasks) else masks


@dataclass(frozen=True)
class DeferredMasks:
    """Predicted masks of an image that are resized when they are moved to another device.

    The logits need less memory than the masks at the size of the result. Evaluators of detectron2 first call
    ``Instances.to``, which calls :meth:`to`, and process one image at a time.

    Attributes:
        logits, image_size, padded_size, result_size: arguments of :func:`resize_masks`.
    """

    logits: Tensor
    image_size: tuple[int, int]
    padded_size: tuple[int, int]
    result_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.logits)

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the resized masks, (N, height, width) bool; for arguments see :meth:`torch.Tensor.to`."""
        return resize_masks(self.logits, self.image_size, self.padded_size, self.result_size).to(*args, **kwargs)


def resize_masks(
    logits: Tensor, image_size: tuple[int, int], padded_size: tuple[int, int], result_size: tuple[int, int]
) -> Tensor:
    """Return predicted masks in the resolution of the result, by bilinear interpolation of the logits.

    Args:
        logits: (N, h, w), covering the padded image.
        image_size: (height, width) of the model's input without padding.
        padded_size: (height, width) of the model's input with padding.
        result_size: (height, width) of the result.

    Returns:
        (N, height, width) bool.
    """
    chunk = max(_CHUNK_PIXELS // max(int(result_size[0]) * int(result_size[1]), 1), 1)
    resized = [_resize(part, image_size, padded_size, result_size) > 0 for part in logits.split(chunk)]
    return torch.cat(resized) if resized else logits.new_zeros((0, *result_size), dtype=torch.bool)


def _resize(
    logits: Tensor, image_size: tuple[int, int], padded_size: tuple[int, int], result_size: tuple[int, int]
) -> Tensor:
    if image_size == padded_size:
        return F.interpolate(logits[:, None], size=result_size, mode="bilinear", align_corners=False)[:, 0]
    # Only a part of the map belongs to the image, and its border need not coincide with that of a pixel.
    rows, columns = (
        (torch.arange(count, device=logits.device, dtype=logits.dtype) + 0.5) * (side / padded / count) * 2 - 1
        for count, side, padded in zip(result_size, image_size, padded_size, strict=True)
    )
    grid = torch.stack(torch.broadcast_tensors(columns[None, :], rows[:, None]), dim=-1)
    sampled = F.grid_sample(logits[None], grid[None], padding_mode="border", align_corners=False)
    return sampled[0]
