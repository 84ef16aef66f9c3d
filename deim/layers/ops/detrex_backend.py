"""detrex's compiled deformable-attention operator, where detrex was built with CUDA."""

import functools
import importlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# Images of a launch; detrex's own layers use the same.
_IMAGES_AT_ONCE = 64


@functools.cache
def problem() -> str | None:
    """Why this backend cannot be used; None if it can."""
    if not torch.cuda.is_available():
        return "there is no GPU"
    try:
        importlib.import_module("detrex._C")
    except ImportError as error:
        return f"detrex's extension is not there: {error}"
    return None


def deform_attn_detrex(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    num_points: Sequence[int],
) -> Tensor:
    """See :func:`deim.layers.ops.deform_attn`; computed in float32, as the operator needs it."""
    operator = importlib.import_module("detrex.layers.multi_scale_deform_attn").MultiScaleDeformableAttnFunction
    shapes = torch.tensor(spatial_shapes, device=value.device)
    sizes = shapes.prod(dim=1)
    locations, weights = with_equal_points(locations.float(), weights.float(), num_points)
    attended = operator.apply(
        value.float().contiguous(), shapes, sizes.cumsum(0) - sizes, locations, weights, _images_at_once(len(value))
    )
    return attended.to(value.dtype)


def with_equal_points(locations: Tensor, weights: Tensor, num_points: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(B, Q, H, P, 2) and (B, Q, H, P) -> (B, Q, H, L, N, 2) and (B, Q, H, L, N): levels with fewer points than the
    others get more in the upper left corner, of weight 0."""
    most = max(num_points)
    levels = zip(locations.split(list(num_points), dim=3), weights.split(list(num_points), dim=3), strict=True)
    padded = [
        (F.pad(where, (0, 0, 0, most - weight.shape[3])), F.pad(weight, (0, most - weight.shape[3])))
        for where, weight in levels
    ]
    return torch.stack([where for where, _ in padded], dim=3), torch.stack([weight for _, weight in padded], dim=3)


def _images_at_once(batch: int) -> int:
    """The operator needs a divisor of the batch."""
    return next(count for count in range(min(batch, _IMAGES_AT_ONCE), 0, -1) if batch % count == 0)
