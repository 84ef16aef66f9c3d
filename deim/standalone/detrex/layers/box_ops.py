"""Box formats."""

import torch
from torch import Tensor


def box_cxcywh_to_xyxy(bbox: Tensor) -> Tensor:
    """(..., 4) centre and size -> corners."""
    centre, half = bbox[..., :2], bbox[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def box_xyxy_to_cxcywh(bbox: Tensor) -> Tensor:
    """(..., 4) corners -> centre and size."""
    low, high = bbox[..., :2], bbox[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)
