"""Losses of edge distributions (D-FINE, arXiv 2410.13842, section 4)."""

import torch
from torch import Tensor

from deim.modeling.losses import functional
from deim.modeling.losses.group_loss import GroupLossInputs
from deim.structures.distribution import bin_targets, boxes_to_offsets


class FineGrainedLocalizationLoss:
    """Fine-grained localization loss (FGL) of matched queries.

    See :func:`deim.modeling.losses.functional.fine_grained_localization_loss`. The loss does not apply to groups
    without edge distributions.

    Args:
        weight: factor of the loss in the total loss.
    """

    def __init__(self, weight: float = 1.0):
        self.weight = weight

    def __call__(self, inputs: GroupLossInputs) -> Tensor | None:
        """Return the (L,) losses of the layers; None without edge distributions."""
        edges, matches = inputs.predictions.edges, inputs.assignment.localization
        if edges is None:
            return None
        references = edges.references[matches.image, matches.query]
        offsets = boxes_to_offsets(references, inputs.matched_boxes.targets, edges.reg_scale)
        left, right_weight = bin_targets(offsets, edges.bin_values)
        loss = functional.fine_grained_localization_loss(
            matches.gather(edges.corners), left, right_weight, inputs.matched_boxes.iou
        )
        return matches.sum_by_layer(loss, len(edges.corners))


class DistillationLoss:
    """Decoupled distillation focal loss (DDF): the last layer teaches its edge distributions to the other layers.

    See :func:`deim.modeling.losses.functional.decoupled_distillation_loss`. A matched query is weighted by its IoU, an
    unmatched query by the highest class probability of the teacher. The loss does not apply to groups without edge
    distributions or with a single layer.

    Args:
        weight: factor of the loss in the total loss.
        temperature: temperature of the distillation.
    """

    def __init__(self, weight: float = 1.0, temperature: float = 5.0):
        self.weight, self.temperature = weight, temperature

    def __call__(self, inputs: GroupLossInputs) -> Tensor | None:
        """Return the (L - 1,) mean divergences of matched and unmatched queries, weighted by ``inputs.balance``."""
        edges, teacher_logits = inputs.predictions.edges, inputs.predictions.logits[-1]
        if edges is None or len(edges.corners) == 1:
            return None
        corners, assignment, balance = edges.corners, inputs.assignment, inputs.balance
        matches = assignment.localization
        index = (matches.layer, matches.image, matches.query)
        confidence = teacher_logits.detach().sigmoid().amax(dim=-1).expand(len(corners), -1, -1)
        weight = confidence.index_put(index, inputs.matched_boxes.iou)[:-1]
        matched = torch.zeros_like(confidence, dtype=torch.bool)
        matched = matched.index_put(index, torch.ones_like(matches.layer, dtype=torch.bool))[:-1]
        divergence = functional.decoupled_distillation_loss(corners[:-1], corners[-1], self.temperature)
        divergence = divergence.sum(dim=-1) * weight
        means = []
        for mask, count in ((matched, assignment.num_matched), (~matched, assignment.num_unmatched)):
            # If there are no such queries, the sum is 0 as well.
            means.append((divergence * mask).sum(dim=(1, 2)) / (4 * count).clamp(min=1e-6))
        return (means[0] * balance[0] + means[1] * balance[1]) / (balance[0] + balance[1])
