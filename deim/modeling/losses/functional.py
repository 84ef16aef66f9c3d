"""Losses as pure functions.

All functions are elementwise over leading dimensions and return sums over the stated dimensions. The caller applies
weights and normalization.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def focal_loss(logits: Tensor, positive: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Compute the sigmoid focal loss (RetinaNet, equation 5), elementwise.

    Args:
        logits: (...) any shape.
        positive: bool or 0/1, same shape.
        alpha, gamma: class balance and focusing parameter; a negative alpha disables the class balance.
    """
    positive = positive.to(logits.dtype)
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, positive, reduction="none")
    one_minus_pt = torch.where(positive > 0, 1 - probability, probability)
    weight = torch.where(positive > 0, alpha, 1 - alpha) if alpha >= 0 else 1.0
    return weight * one_minus_pt**gamma * entropy


def varifocal_loss(
    logits: Tensor, positive: Tensor, quality: Tensor, alpha: float = 0.75, gamma: float = 2.0
) -> Tensor:
    """Compute the varifocal loss (VarifocalNet, arXiv 2008.13367, equation 2), elementwise.

    Args:
        logits: (...) any shape.
        positive: bool, True at the matched class of matched queries.
        quality: IoU in [0, 1] where positive, 0 elsewhere.
        alpha, gamma: weight and focusing parameter of negatives.
    """
    score = logits.sigmoid().detach()
    weight = torch.where(positive, quality, alpha * score**gamma)
    return F.binary_cross_entropy_with_logits(logits, quality, weight=weight, reduction="none")


def matchability_aware_loss(
    logits: Tensor, positive: Tensor, quality: Tensor, gamma: float = 1.5, alpha: float | None = None
) -> Tensor:
    """Compute the matchability-aware loss (DEIM, arXiv 2412.04234, equation 2), elementwise.

    The target of a match with IoU q is q^gamma, and matches of low and high quality have the same weight.

    Args:
        logits: (...) any shape.
        positive: bool, True at the matched class of matched queries.
        quality: IoU in [0, 1] where positive, 0 elsewhere.
        gamma: exponent of the target.
        alpha: additional weight of negatives; None for none.
    """
    score = logits.sigmoid().detach()
    negative = _power(score, gamma)
    if alpha is not None:
        negative = alpha * negative
    weight = torch.where(positive, 1.0, negative)
    return F.binary_cross_entropy_with_logits(logits, _power(quality, gamma), weight=weight, reduction="none")


def _power(x: Tensor, exponent: float) -> Tensor:
    """Return ``x ** exponent`` for non-negative x, with a faster path for DEIM's exponent."""
    return x * x.sqrt() if exponent == 1.5 else x**exponent


def l1_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """Return the summed absolute difference of coordinates: (..., 4) and (..., 4) -> (...,)."""
    return (boxes - targets).abs().sum(dim=-1)


def fine_grained_localization_loss(corners: Tensor, left: Tensor, right_weight: Tensor, quality: Tensor) -> Tensor:
    """Compute the FGL loss (D-FINE, equation 7): cross-entropy to the two bins around each target offset, times IoU.

    Args:
        corners: (..., 4, reg_max + 1) logits.
        left, right_weight: (..., 4) from :func:`deim.structures.distribution.bin_targets`.
        quality: (...,) IoU of the decoded box with its target, without gradient.

    Returns:
        (...,) sum over the four edges.
    """
    log_probability = corners.log_softmax(dim=-1)
    left = left.expand(log_probability.shape[:-1])[..., None]
    to_left = log_probability.gather(-1, left)[..., 0]
    to_right = log_probability.gather(-1, left + 1)[..., 0]
    entropy = -(to_left * (1 - right_weight) + to_right * right_weight)
    return (entropy * quality[..., None]).sum(dim=-1)


def decoupled_distillation_loss(corners: Tensor, teacher: Tensor, temperature: float = 5.0) -> Tensor:
    """Compute the KL divergence of the teacher's edge distributions from the student's (D-FINE, equation 8).

    Args:
        corners, teacher: (..., 4, reg_max + 1) logits; the teacher gets no gradient.
        temperature: temperature of both softmax functions.

    Returns:
        (..., 4), multiplied by the squared temperature.
    """
    student_log_probability = (corners / temperature).log_softmax(dim=-1)
    teacher_log_probability = (teacher.detach() / temperature).log_softmax(dim=-1)
    divergence = F.kl_div(student_log_probability, teacher_log_probability, reduction="none", log_target=True)
    return divergence.sum(dim=-1) * temperature**2


def mask_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the binary cross-entropy of masks, averaged over points.

    Args:
        logits: (..., P).
        targets: (..., P), 0 or 1.

    Returns:
        (...).
    """
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=-1)


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the Dice loss of masks, with 1 added to numerator and denominator (MaskFormer, arXiv 2107.06278).

    Args:
        logits: (..., P).
        targets: (..., P), 0 or 1.

    Returns:
        (...) in [0, 1].
    """
    probability = logits.sigmoid()
    intersection = (probability * targets).sum(dim=-1)
    return 1 - (2 * intersection + 1) / (probability.sum(dim=-1) + targets.sum(dim=-1) + 1)
