"""Precision of boxes, scores and losses."""

from torch import Tensor, float64


def in_full_precision(values: Tensor) -> Tensor:
    """Convert values to float32; float64 values are returned unchanged."""
    return values if values.dtype == float64 else values.float()
