"""Self-attention with rotary position embedding (RoPE, arXiv 2104.09864), on the two axes of an image as in DINOv3."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deim.layers.linear import Linear, linear
from deim.layers.tracing import cached_tensors


@cached_tensors
def rotary_angles(
    height: int,
    width: int,
    head_dim: int,
    num_prefix: int = 0,
    base: float = 100.0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the rotation angles of the tokens of a (height, width) map, in row-major order.

    Positions are the centers of the patches, from -1 to 1 on each axis. The first half of the angles encodes the row,
    the second half the column, each as ``2 pi position / base^(4 k / head_dim)``.

    Args:
        num_prefix: number of tokens before those of the map, such as the class token; their angles are zero.

    Returns:
        (num_prefix + height * width, head_dim / 2). The result is cached: do not modify it.
    """
    periods = base ** (torch.arange(head_dim // 4, device=device, dtype=dtype) * (4 / head_dim))
    rows, columns = (
        ((torch.arange(side, device=device, dtype=dtype) + 0.5) * 2 / side - 1)[:, None] * (2 * math.pi / periods)
        for side in (height, width)
    )
    rows, columns = rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)
    angles = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    return torch.cat([angles.new_zeros(num_prefix, head_dim // 2), angles])


def cosines_and_sines(angles: Tensor) -> Tensor:
    """Return (2, N, C / 2), the argument ``rotary`` of :func:`rotate`, for angles (N, C / 2)."""
    return torch.stack([angles.cos(), angles.sin()])


@cached_tensors
def rotary_table(
    height: int, width: int, head_dim: int, num_prefix: int, base: float, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Return the argument ``rotary`` of :func:`rotate` for the tokens of a map; for the arguments see
    :func:`rotary_angles`. The result is cached: do not modify it."""
    return cosines_and_sines(rotary_angles(height, width, head_dim, num_prefix, base, device, dtype))


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate pairs of channels; channel k and channel k + C / 2 are a pair.

    Args:
        x: (..., N, C) queries or keys. They are rotated in the precision of ``rotary``.
        rotary: (2, N, C / 2) cosines and sines of the angles.

    Returns:
        (..., N, C) in the dtype of ``x``.
    """
    cosines, sines = rotary.unbind()
    first, second = x.chunk(2, dim=-1)
    rotated = torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)
    return rotated.to(x.dtype)


class QueryKeyValue(Linear):
    """Projection to queries, keys and values; without ``key_bias``, the keys' third of the bias is not used."""

    def __init__(self, dim: int, key_bias: bool):
        super().__init__(dim, 3 * dim)
        self.key_bias = key_bias

    def forward(self, x: Tensor) -> Tensor:
        if self.key_bias:
            return super().forward(x)
        query, key, value = self.bias.chunk(3)
        return linear(x, self.weight, torch.cat([query, torch.zeros_like(key), value]))

    @torch.no_grad()
    def fold(self) -> None:
        """Set the unused third of the bias to zero, so that it can be added, in place."""
        if not self.key_bias:
            query, key, value = self.bias.chunk(3)
            self.bias = nn.Parameter(torch.cat([query, torch.zeros_like(key), value]))
            self.key_bias = True


class RotaryAttention(nn.Module):
    """Multi-head self-attention that rotates queries and keys by their positions."""

    def __init__(self, dim: int, num_heads: int, key_bias: bool):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = QueryKeyValue(dim, key_bias)
        self.proj = Linear(dim, dim)

    def forward(self, tokens: Tensor, rotary: Tensor) -> Tensor:
        """Compute self-attention.

        Args:
            tokens: (B, N, dim).
            rotary: (2, N, dim / num_heads / 2) cosines and sines; see :func:`rotate`.

        Returns:
            (B, N, dim).
        """
        heads = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind()
        attended = F.scaled_dot_product_attention(rotate(query, rotary), rotate(key, rotary), value)
        return self.proj(attended.transpose(1, 2).flatten(2))
