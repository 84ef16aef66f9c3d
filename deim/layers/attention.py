"""Attention of several heads, also where only neighbors see each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class AttentionBlock:
    """Neighboring queries that look at the same neighboring keys.

    A mask over all pairs says as much, but pairs that it forbids cost as much as others, and the fastest kernels take none.

    Attributes:
        size: how many queries, which follow those of the block before.
        seen: the keys.
        forbidden: (size, keys) bool, True where a query does not see a key all the same; None for nowhere.
    """

    size: int
    seen: slice
    forbidden: Tensor | None = None


def attend(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, forbidden: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Attention of projected inputs.

    Args:
        query, key: (B, Q, C) and (B, S, C), the heads side by side.
        value: (B, S, D).
        forbidden: bool, True where a query does not see a key; broadcast to (B, heads, Q, S).

    Returns:
        (B, Q, D).
    """
    query, key, value = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    allowed = None if forbidden is None else ~forbidden
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=dropout)
    return attended.transpose(1, 2).flatten(2)


def attend_in_blocks(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, blocks: Sequence[AttentionBlock], dropout: float = 0.0
) -> Tensor:
    """:func:`attend`, block by block; without blocks, all queries see all keys."""
    if not blocks:
        return attend(query, key, value, num_heads, dropout=dropout)
    parts = zip(query.split([block.size for block in blocks], dim=1), blocks, strict=True)
    attended = [attend(q, key[:, b.seen], value[:, b.seen], num_heads, b.forbidden, dropout) for q, b in parts]
    return torch.cat(attended, dim=1)


class SelfAttention(nn.Module):
    """Attention among tokens or queries, whose positions count for who is looked at and not for what is seen.

    Parameters and their first values are those of ``torch.nn.MultiheadAttention``.

    Args:
        dim: of the tokens.
        num_heads: divides ``dim``.
        dropout: of the attention's weights, in training.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        placed: Tensor,
        tokens: Tensor,
        blocks: Sequence[AttentionBlock] = (),
        padding: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            placed: (B, N, dim) tokens with their positions, of which queries and keys are made.
            tokens: (B, N, dim), of which values are made.
            blocks: who sees whom; empty for all.
            padding: (B, N) bool, True where a token is to be ignored, instead of blocks.

        Returns:
            (B, N, dim).
        """
        dim, dropout = tokens.shape[-1], self.dropout if self.training else 0.0
        weights, biases = (x.split([2 * dim, dim]) for x in (self.in_proj_weight, self.in_proj_bias))
        query, key = F.linear(placed, weights[0], biases[0]).chunk(2, dim=-1)
        value = F.linear(tokens, weights[1], biases[1])
        if padding is None:
            return self.out_proj(attend_in_blocks(query, key, value, self.num_heads, blocks, dropout))
        return self.out_proj(attend(query, key, value, self.num_heads, padding[:, None, None], dropout))
