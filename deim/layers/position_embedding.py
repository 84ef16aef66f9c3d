"""Sine-cosine position embeddings."""

import math

import torch
from torch import Tensor

from deim.layers.tracing import cached_tensors


@cached_tensors
def sine_position_embedding(
    height: int, width: int, dim: int, temperature: float = 10000.0, device: torch.device | str = "cpu"
) -> Tensor:
    """Return the embedding of each position of a (height, width) map, in row-major order.

    The first half of the channels encodes the row, the second half the column. Each half contains the sines of
    ``position / temperature^(k / (dim / 4))``, followed by the cosines. RT-DETR's code swaps the names of the two
    halves, but it is trained on square maps, for which the result is the same.

    Returns:
        (1, height * width, dim) float32. The result is cached: do not modify it.

    Raises:
        ValueError: if ``dim`` is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"the width of the position embedding must be a multiple of 4, got {dim}")
    frequencies = temperature ** -(torch.arange(dim // 4, dtype=torch.float32, device=device) / (dim // 4))
    rows = torch.arange(height, dtype=torch.float32, device=device)[:, None] * frequencies
    columns = torch.arange(width, dtype=torch.float32, device=device)[:, None] * frequencies
    rows = rows[:, None].expand(height, width, -1)
    columns = columns[None].expand(height, width, -1)
    embedding = torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()], dim=-1)
    return embedding.reshape(1, height * width, dim)


def sine_embedding(coordinates: Tensor, dim: int, temperature: float = 10000.0) -> Tensor:
    """Embed each coordinate by ``dim`` alternating sines and cosines (DETR, arXiv 2005.12872, appendix A.4).

    Args:
        coordinates: (..., N), relative to the image sides.
        dim: channels per coordinate, even.
        temperature: base of the frequencies.

    Returns:
        (..., N * dim), in the order of the coordinates.
    """
    exponents = torch.arange(dim // 2, dtype=torch.float32, device=coordinates.device) / (dim // 2)
    angles = coordinates[..., None] * (2 * math.pi) / temperature**exponents
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


def map_coordinates(padding: Tensor, offset: float = 0.0, eps: float = 1e-6) -> Tensor:
    """Return the row and column of each map position, (B, h, w, 2), relative to the area without padding.

    Args:
        padding: (B, h, w) bool, True for padding.
        offset: added to rows and columns, which count from 1 (Deformable DETR: -0.5, the pixel center).
        eps: added to the divisor.
    """
    valid = (~padding).float()
    rows, columns = valid.cumsum(1), valid.cumsum(2)
    rows = (rows + offset) / (rows[:, -1:] + eps)
    columns = (columns + offset) / (columns[:, :, -1:] + eps)
    return torch.stack([rows, columns], dim=-1)
