"""Heads shared by query sources and refinements."""

import math

from torch import nn

from deim.layers import Linear


def classification_head(dim: int, num_classes: int, prior: float = 0.01) -> nn.Linear:
    """Return a linear layer (..., dim) -> (..., num_classes) with initial probabilities of about ``prior``
    (RetinaNet, section 4.1)."""
    head = Linear(dim, num_classes)
    nn.init.constant_(head.bias, -math.log((1 - prior) / prior))
    return head
