"""Comparison of predicted masks with the masks of their assigned objects at sampled points.

PointRend (arXiv 1912.08193, section 3.1); Mask2Former (arXiv 2112.01527).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deim.modeling.losses.assignment import DeviceMatches
from deim.structures.masks import MaskPredictions, nearest_pixels, sample_bilinear
from deim.structures.predictions import Targets


class MaskPointSampler:
    """Points at which the masks of a loss are compared, drawn separately for each mask.

    Most points are those with the most uncertain predictions among random candidates; the others are random.

    Args:
        pixels_per_point: number of pixels of the predicted mask for each point. There are at least as many points as
            rows of the mask.
        oversampling: number of candidates for each point.
        uncertain_fraction: fraction of the points that are chosen by uncertainty.
    """

    def __init__(self, pixels_per_point: int = 16, oversampling: float = 3.0, uncertain_fraction: float = 0.75):
        self.pixels_per_point = pixels_per_point
        self.oversampling, self.uncertain_fraction = oversampling, uncertain_fraction

    @torch.no_grad()
    def __call__(self, logits: Tensor) -> Tensor:
        """Draw the points.

        Args:
            logits: (M, h, w) of the predicted masks.

        Returns:
            (M, P, 2) x and y in [0, 1).
        """
        num_masks, height, width = logits.shape
        num_points = max(height, height * width // self.pixels_per_point)
        candidates = self.draw(num_masks, int(num_points * self.oversampling), logits)
        uncertainty = -sample_bilinear(logits[:, None], candidates)[:, 0].abs()
        num_uncertain = int(self.uncertain_fraction * num_points)
        index = uncertainty.topk(num_uncertain, dim=1).indices
        uncertain = candidates.gather(1, index[..., None].expand(-1, -1, 2))
        return torch.cat([uncertain, self.draw(num_masks, num_points - num_uncertain, logits)], dim=1)

    def draw(self, num_masks: int, num_points: int, like: Tensor) -> Tensor:
        """Return (num_masks, num_points, 2) uniformly distributed points in [0, 1), with the type of ``like``."""
        return torch.rand(num_masks, num_points, 2, device=like.device, dtype=like.dtype)


@dataclass
class MatchedMasks:
    """Masks of M matches at P points each.

    Attributes:
        logits: (M, P) of the predicted masks.
        targets: (M, P) 0 or 1, of the masks of the objects.
        has_mask: (M,) bool, False for objects whose mask is empty, for example because their annotation has no polygon.
    """

    logits: Tensor
    targets: Tensor
    has_mask: Tensor


def sample_matched_masks(
    masks: MaskPredictions, targets: Targets, matches: DeviceMatches, sampler: MaskPointSampler
) -> MatchedMasks:
    """Sample the predicted masks and those of the objects for the M matches of a group.

    Args:
        masks: masks of the group.
        targets: ground truth with masks.
        matches: matches for classification, which are one-to-one.
        sampler: choice of the points.
    """
    assert targets.masks is not None
    logits = matched_logits(masks, matches)
    points = sampler(logits)
    rows, columns = nearest_pixels(points, (targets.masks.shape[-2], targets.masks.shape[-1]))
    labels = targets.masks[matches.image[:, None], matches.target[:, None], rows, columns]
    has_mask = targets.has_mask[matches.image, matches.target]
    return MatchedMasks(sample_bilinear(logits[:, None], points)[:, 0], labels.to(logits.dtype), has_mask)


def matched_logits(masks: MaskPredictions, matches: DeviceMatches) -> Tensor:
    """Return the (M, h, w) logits of the matched queries.

    The matches of an image are arranged in the rows of a matrix, so that each layer needs one batched matrix product.
    """
    num_layers, num_images = masks.queries.shape[:2]
    group = matches.layer * num_images + matches.image
    order = group.argsort(stable=True)
    first = torch.searchsorted(group[order], group[order])
    row = torch.empty_like(order).index_copy(0, order, torch.arange(len(order), device=order.device) - first)
    queries = matches.query.new_zeros(num_layers, num_images, matches.on_host.max_per_image)
    queries = queries.index_put((matches.layer, matches.image, row), matches.query)
    logits = torch.stack([masks.select(layer, queries[layer]) for layer in range(num_layers)])
    # The gradient of index_select copies whole masks; that of logits[layer, image, row] adds pixel by pixel.
    return logits.flatten(0, 2).index_select(0, group * queries.shape[2] + row)
