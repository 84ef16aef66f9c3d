"""Conversion of box formats."""

import torch
from torch import Tensor


def box_cxcywh_to_xyxy(bbox: Tensor) -> Tensor:
    """Convert boxes of shape (..., 4) from CXCYWH to XYXY."""
    x, y, width, height = bbox.unbind(-1)
    return torch.stack([x - 0.5 * width, y - 0.5 * height, x + 0.5 * width, y + 0.5 * height], dim=-1)


def box_xyxy_to_cxcywh(bbox: Tensor) -> Tensor:
    """Convert boxes of shape (..., 4) from XYXY to CXCYWH."""
    left, top, right, bottom = bbox.unbind(-1)
    return torch.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], dim=-1)
