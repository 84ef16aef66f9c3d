"""Matching cost of masks."""

import torch
from torch import Tensor
from torch.nn import functional as F

from deim.structures.masks import nearest_pixels
from deim.structures.predictions import Predictions, Targets


class MaskCost:
    """Weighted sum of the binary cross-entropy and the Dice loss of masks, at random points (Mask2Former).

    Objects with an empty mask have the cost 0.

    Args:
        cross_entropy_weight, dice_weight: weights of the two terms.
        pixels_per_point: number of pixels of the predicted mask for each point.
    """

    # Not a dataclass, because OmegaConf converts dataclasses in lists to configs.
    def __init__(self, cross_entropy_weight: float = 5.0, dice_weight: float = 5.0, pixels_per_point: int = 16):
        self.cross_entropy_weight, self.dice_weight = cross_entropy_weight, dice_weight
        self.pixels_per_point = pixels_per_point

    def __call__(self, predictions: Predictions, targets: Targets) -> Tensor | None:
        """Compute the cost of all pairs; see :class:`PredictionCost`. None without masks."""
        masks = predictions.masks
        if masks is None or targets.masks is None:
            return None
        height, width = masks.size
        points = self.draw(max(height * width // self.pixels_per_point, 1), predictions.boxes)
        logits = masks.at_points(points)
        rows, columns = nearest_pixels(points, (targets.masks.shape[-2], targets.masks.shape[-1]))
        labels = targets.masks[:, :, rows, columns].to(logits.dtype).transpose(1, 2)
        cost = self.cross_entropy_weight * _cross_entropy(logits, labels) + self.dice_weight * _dice(logits, labels)
        return cost * targets.has_mask[None, :, None]

    def draw(self, num_points: int, like: Tensor) -> Tensor:
        """Return (num_points, 2) uniformly distributed points in [0, 1), with the type of ``like``."""
        return torch.rand(num_points, 2, device=like.device, dtype=like.dtype)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the (L, B, Q, T) mean cross-entropy of all pairs, from logits (L, B, Q, P) and labels (B, P, T)."""
    # BCE(x, t) = softplus(x) - x t
    return (F.softplus(logits).sum(dim=-1, keepdim=True) - logits @ labels) / logits.shape[-1]


def _dice(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the (L, B, Q, T) Dice loss of all pairs; for arguments see :func:`_cross_entropy`."""
    probability = logits.sigmoid()
    total = probability.sum(dim=-1, keepdim=True) + labels.sum(dim=1)[None, :, None]
    return 1 - (2 * probability @ labels + 1) / (total + 1)
