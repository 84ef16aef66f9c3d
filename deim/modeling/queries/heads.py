"""Heads that query sources and refinements share."""

import math

from torch import nn

from deim.layers import Linear


def classification_head(dim: int, num_classes: int, prior: float = 0.01) -> nn.Linear:
    """(..., dim) -> (..., num_classes) logits that start at about the probability ``prior``
    (RetinaNet, section 4.1)."""
    head = Linear(dim, num_classes)
    nn.init.constant_(head.bias, -math.log((1 - prior) / prior))
    return head
