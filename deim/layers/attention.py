"""Multi-head attention, optionally block-wise."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class AttentionBlock:
    """A block of consecutive queries that attend to the same range of keys.

    A mask over all pairs would be equivalent, but masked pairs cost as much as other pairs, and the fastest kernels
    support no mask.

    Attributes:
        size: number of queries; they follow the queries of the previous block.
        keys: range of keys that the queries attend to.
        masked: (size, number of keys) bool, True for pairs of the block that do not attend; None for no mask.
    """

    size: int
    keys: slice
    masked: Tensor | None = None


def attend(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, masked: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Compute multi-head attention of projected inputs.

    Args:
        query, key: (B, Q, C) and (B, S, C), with concatenated heads.
        value: (B, S, D).
        num_heads: number of heads.
        masked: bool, True for masked pairs; broadcast to (B, heads, Q, S).
        dropout: dropout probability of the attention weights.

    Returns:
        (B, Q, D).
    """
    query, key, value = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    attn_mask = None if masked is None else ~masked
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, dropout_p=dropout)
    return attended.transpose(1, 2).flatten(2)


def attend_in_blocks(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, blocks: Sequence[AttentionBlock], dropout: float = 0.0
) -> Tensor:
    """Compute :func:`attend` block by block; without blocks, all queries attend to all keys."""
    if not blocks:
        return attend(query, key, value, num_heads, dropout=dropout)
    parts = zip(query.split([block.size for block in blocks], dim=1), blocks, strict=True)
    attended = [attend(q, key[:, b.keys], value[:, b.keys], num_heads, b.masked, dropout) for q, b in parts]
    return torch.cat(attended, dim=1)


class SelfAttention(nn.Module):
    """Self-attention of tokens or queries; positions are added to queries and keys, but not to values.

    Parameters and their initialization are those of ``torch.nn.MultiheadAttention``.

    Args:
        dim: width of the tokens.
        num_heads: number of heads; must divide ``dim``.
        dropout: dropout probability of the attention weights, in training.
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
        tokens_with_position: Tensor,
        tokens: Tensor,
        blocks: Sequence[AttentionBlock] = (),
        padding: Tensor | None = None,
    ) -> Tensor:
        """Compute self-attention.

        Args:
            tokens_with_position: (B, N, dim) tokens with added positions, the input of queries and keys.
            tokens: (B, N, dim), the input of values.
            blocks: attention blocks; if empty, all tokens attend to all tokens.
            padding: (B, N) bool, True for tokens to ignore; if given, ``blocks`` is ignored.

        Returns:
            (B, N, dim).
        """
        dim, dropout = tokens.shape[-1], self.dropout if self.training else 0.0
        weights, biases = (x.split([2 * dim, dim]) for x in (self.in_proj_weight, self.in_proj_bias))
        query, key = F.linear(tokens_with_position, weights[0], biases[0]).chunk(2, dim=-1)
        value = F.linear(tokens, weights[1], biases[1])
        if padding is None:
            return self.out_proj(attend_in_blocks(query, key, value, self.num_heads, blocks, dropout))
        return self.out_proj(attend(query, key, value, self.num_heads, padding[:, None, None], dropout))
