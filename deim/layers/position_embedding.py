"""Sine-cosine position embedding of a feature map."""

import functools

import torch
from torch import Tensor


@functools.lru_cache(maxsize=32)
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
