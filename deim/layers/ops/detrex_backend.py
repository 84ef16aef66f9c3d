"""detrex's compiled deformable-attention operator, available if detrex was built with CUDA."""

import functools
import importlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# Maximum number of images per kernel launch, as in detrex's layers.
_MAX_IMAGES_PER_LAUNCH = 64


@functools.cache
def unavailable_reason() -> str | None:
    """Return why this backend cannot be used; None if it can."""
    if not torch.cuda.is_available():
        return "no CUDA GPU is available"
    try:
        importlib.import_module("detrex._C")
    except ImportError as error:
        return f"detrex's CUDA extension cannot be imported: {error}"
    return None


def deform_attn_detrex(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    num_points: Sequence[int],
) -> Tensor:
    """See :func:`deim.layers.ops.deform_attn`; computed in float32, which the operator requires."""
    operator = importlib.import_module("detrex.layers.multi_scale_deform_attn").MultiScaleDeformableAttnFunction
    shapes = torch.tensor(spatial_shapes, device=value.device)
    sizes = shapes.prod(dim=1)
    locations, weights = pad_points(locations.float(), weights.float(), num_points)
    attended = operator.apply(
        value.float().contiguous(), shapes, sizes.cumsum(0) - sizes, locations, weights, _images_per_launch(len(value))
    )
    return attended.to(value.dtype)


def pad_points(locations: Tensor, weights: Tensor, num_points: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Pad all levels to the maximum number of points N, with points of weight 0 in the upper left corner.

    Args:
        locations: (B, Q, H, P, 2).
        weights: (B, Q, H, P).
        num_points: number of points on each level.

    Returns:
        locations (B, Q, H, L, N, 2) and weights (B, Q, H, L, N).
    """
    max_points = max(num_points)
    levels = zip(locations.split(list(num_points), dim=3), weights.split(list(num_points), dim=3), strict=True)
    padded = [
        (F.pad(location, (0, 0, 0, max_points - weight.shape[3])), F.pad(weight, (0, max_points - weight.shape[3])))
        for location, weight in levels
    ]
    return torch.stack([location for location, _ in padded], dim=3), torch.stack(
        [weight for _, weight in padded], dim=3
    )


def _images_per_launch(batch: int) -> int:
    """Return the largest valid number of images per launch; the operator requires a divisor of the batch size."""
    return next(count for count in range(min(batch, _MAX_IMAGES_PER_LAUNCH), 0, -1) if batch % count == 0)
