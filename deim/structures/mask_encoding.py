"""Run-length encoding of masks."""

from typing import Any

import torch
from pycocotools import mask as coco_masks
from torch import Tensor

# Masks that are encoded at once, to limit the memory.
_CHUNK = 32


def encode_masks(masks: Tensor) -> list[dict[str, Any]]:
    """Return COCO's compressed run-length encodings of masks (N, H, W), with counts as text."""
    encodings: list[dict[str, Any]] = []
    for part in masks.split(_CHUNK):
        # pycocotools needs an array (H, W, N) whose columns are contiguous.
        columns = part.to(torch.uint8).transpose(1, 2).contiguous().cpu().numpy()
        encodings += coco_masks.encode(columns.transpose(2, 1, 0))
    return [{**encoding, "counts": encoding["counts"].decode()} for encoding in encodings]
