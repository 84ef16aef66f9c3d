"""The mathematics of fine-grained distribution refinement (D-FINE, arXiv 2410.13842, section 4.1).

A box is described relative to a reference box by the offsets of its four edges (left, top, right,
bottom). Each offset is the expectation of a distribution over ``reg_max + 1`` bins whose values
W(n) are spaced finely around zero and coarsely at the ends (equation 5 of the paper).
"""

import torch
from torch import Tensor

from deim.devices import supports_float64
from deim.structures.precision import in_full_precision


def weighting_function(reg_max: int, up: Tensor, reg_scale: Tensor) -> Tensor:
    """Return the bin values W(0) < ... < W(reg_max), antisymmetric around W(reg_max / 2) = 0.

    Args:
        reg_max: number of bins minus one, even and at least 4.
        up: () or (1,) offset of the second-to-last bin at either end, in box sides.
        reg_scale: () or (1,) curvature; edge offsets are in units of ``side / reg_scale``.

    Returns:
        (reg_max + 1,) float32, or float64 if ``up`` is float64.

    Raises:
        ValueError: if ``reg_max`` is odd or below 4.
    """
    if reg_max < 4 or reg_max % 2:
        raise ValueError(f"reg_max must be even and at least 4, got {reg_max}")
    dtype = torch.float64 if supports_float64(up.device) else torch.float32
    bound = (up.to(dtype) * reg_scale.to(dtype)).abs().reshape(1)
    base = (bound + 1) ** (2 / (reg_max - 2))
    steps = torch.arange(1, reg_max // 2, device=bound.device)
    positive = torch.cat([base**steps - 1, 2 * bound])
    return torch.cat([-positive.flip(0), torch.zeros_like(bound), positive]).to(
        torch.promote_types(up.dtype, torch.float32)
    )


def expected_offsets(corners: Tensor, bin_values: Tensor) -> Tensor:
    """Return the expected edge offsets: the sum over n of softmax(corners)_n W(n).

    Args:
        corners: (..., 4, reg_max + 1) logits.
        bin_values: (reg_max + 1,) from :func:`weighting_function`.

    Returns:
        (..., 4) float32, or float64 for float64 inputs.
    """
    # A matrix-matrix product, because FLOP counters such as fvcore's do not support matrix-vector products.
    return (in_full_precision(corners).softmax(dim=-1) @ bin_values[:, None]).squeeze(-1)


def offsets_to_boxes(references: Tensor, offsets: Tensor, reg_scale: Tensor) -> Tensor:
    """Move the edges of reference boxes outwards by ``offsets`` (equation 4).

    Args:
        references: (..., 4) cxcywh.
        offsets: (..., 4) left, top, right, bottom, in units of ``side / reg_scale``.

    Returns:
        (..., 4) cxcywh.
    """
    scale = reg_scale.abs()
    center, unit = references[..., :2], references[..., 2:] / scale
    low = center - (0.5 * scale + offsets[..., :2]) * unit
    high = center + (0.5 * scale + offsets[..., 2:]) * unit
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def boxes_to_offsets(references: Tensor, boxes: Tensor, reg_scale: Tensor) -> Tensor:
    """Return the offsets that move ``references`` to ``boxes``: the inverse of :func:`offsets_to_boxes`.

    Args:
        references: (..., 4) cxcywh.
        boxes: (..., 4) XYXY.

    Returns:
        (..., 4) left, top, right, bottom, in units of ``side / reg_scale``.
    """
    scale = reg_scale.abs()
    center = references[..., :2]
    unit = references[..., 2:] / scale + 1e-16
    low = (center - boxes[..., :2]) / unit - 0.5 * scale
    high = (boxes[..., 2:] - center) / unit - 0.5 * scale
    return torch.cat([low, high], dim=-1)


def bin_targets(offsets: Tensor, bin_values: Tensor) -> tuple[Tensor, Tensor]:
    """Express offsets as mixtures of their two neighboring bins (equation 6).

    Offsets beyond the outermost bins are assigned entirely to the outermost bin.

    Args:
        offsets: any shape.
        bin_values: (reg_max + 1,) ascending.

    Returns:
        the int64 index of the left bin, in [0, reg_max - 1], and the float weight of the right bin, in [0, 1]; both in
        the shape of ``offsets``.
    """
    right = torch.searchsorted(bin_values, offsets.contiguous(), right=True)
    left = (right - 1).clamp(0, bin_values.numel() - 2)
    low, high = bin_values[left], bin_values[left + 1]
    return left, ((offsets - low) / (high - low)).clamp(0, 1)
