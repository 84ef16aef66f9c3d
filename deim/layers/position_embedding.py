"""Sine-cosine position embeddings."""

import math

import torch
from torch import Tensor

from deim.layers.tracing import remembered


@remembered
def sine_position_embedding(
    height: int, width: int, dim: int, temperature: float = 10000.0, device: torch.device | str = "cpu"
) -> Tensor:
    """Embedding of each position of a (height, width) map, row by row.

    The first half of the channels encodes the row, the second the column; each half holds the
    sines of ``position / temperature^(k / (dim / 4))``, then the cosines. (RT-DETR's code labels
    the halves the other way round and is trained on square maps, where this is what it computes.)

    Returns:
        (1, height * width, dim) float32. Cached: do not write to it.

    Raises:
        ValueError: ``dim`` is no multiple of 4.
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
    """Each coordinate by ``dim`` sines and cosines in turns (DETR, arXiv 2005.12872, appendix A.4).

    Args:
        coordinates: (..., N) in units of the image's sides.
        dim: of one coordinate; even.

    Returns:
        (..., N * dim), in the order of the coordinates.
    """
    exponents = torch.arange(dim // 2, dtype=torch.float32, device=coordinates.device) / (dim // 2)
    angles = coordinates[..., None] * (2 * math.pi) / temperature**exponents
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


def map_coordinates(padding: Tensor, offset: float = 0.0, eps: float = 1e-6) -> Tensor:
    """(B, h, w, 2) row and column of each position of maps, relative to what is no padding.

    Args:
        padding: (B, h, w) bool, True on padding.
        offset: added to rows and columns, which count from 1 (Deformable DETR: -0.5, the center).
    """
    inside = (~padding).float()
    rows, columns = inside.cumsum(1), inside.cumsum(2)
    rows = (rows + offset) / (rows[:, -1:] + eps)
    columns = (columns + offset) / (columns[:, :, -1:] + eps)
    return torch.stack([rows, columns], dim=-1)
