"""The precision in which boxes, scores and losses are computed."""

from torch import Tensor, float64


def in_full_precision(values: Tensor) -> Tensor:
    """Return values in float32, whatever the precision of the network; float64 stays as it is."""
    return values if values.dtype == float64 else values.float()
