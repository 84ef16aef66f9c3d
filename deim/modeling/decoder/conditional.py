"""Decoder layers with conditional cross-attention, which compares content and position separately.

Conditional DETR (arXiv 2108.06152); DAB-DETR (arXiv 2201.12329), figure 5.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deim.layers import AttentionBlock, Linear, attend, attend_in_blocks, build_activation
from deim.modeling.decoder.layer import DecoderLayer
from deim.modeling.decoder.position import QueryPosition
from deim.structures.memory import Memory


def join_heads(content: Tensor, position: Tensor, num_heads: int) -> Tensor:
    """Concatenate content and position, both (B, N, C), within each head: (B, N, 2 C)."""
    parts = [x.unflatten(-1, (num_heads, -1)) for x in (content, position)]
    return torch.cat(parts, dim=-1).flatten(2)


class ConditionalSelfAttention(nn.Module):
    """Self-attention among queries with separate projections of content and position."""

    def __init__(self, dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query_content, self.query_position = Linear(dim, dim), Linear(dim, dim)
        self.key_content, self.key_position = Linear(dim, dim), Linear(dim, dim)
        self.value_proj, self.output_proj = Linear(dim, dim), Linear(dim, dim)

    def forward(
        self, queries: Tensor, position: Tensor, blocks: Sequence[AttentionBlock] = ()
    ) -> tuple[Tensor, Tensor]:
        """Return the attention output and the projected queries, both (B, Q, dim)."""
        query = self.query_content(queries) + self.query_position(position)
        key = self.key_content(queries) + self.key_position(position)
        dropout = self.dropout if self.training else 0.0
        attended = attend_in_blocks(query, key, self.value_proj(queries), self.num_heads, blocks, dropout)
        return self.output_proj(attended), query


class ConditionalCrossAttention(nn.Module):
    """Cross-attention from queries to tokens that compares content and position separately.

    In the first layer, the position embeddings are also added to the content: ``query_position`` projects those of the
    queries. Later layers have no ``query_position``.

    Args:
        dim: width of the queries.
        num_heads: number of attention heads.
        dropout: dropout of the attention weights.
        num_levels: number of maps. Each map is attended to separately, and the queries determine the weights of the
            outputs. 1 attends to all tokens at once.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float, num_levels: int = 1):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query_content, self.query_sine = Linear(dim, dim), Linear(dim, dim)
        self.query_position: nn.Linear | None = Linear(dim, dim)
        self.key_content, self.key_position = Linear(dim, dim), Linear(dim, dim)
        self.value_proj, self.output_proj = Linear(dim, dim), Linear(dim, dim)
        self.level_weights = Linear(dim, num_levels) if num_levels > 1 else None

    def forward(self, queries: Tensor, position: QueryPosition, memory: Memory, projected_queries: Tensor) -> Tensor:
        """Return (B, Q, dim); ``projected_queries`` (B, Q, dim) determines the weights of the levels."""
        assert memory.position is not None
        assert position.center is not None
        content, token_position = self.key_content(memory.tokens), self.key_position(memory.position)
        token_position = token_position.expand_as(content)
        query = self.query_content(queries)
        if self.query_position is not None:
            query, content = query + self.query_position(position.embedding), content + token_position
        query = join_heads(query, self.query_sine(position.center), self.num_heads)
        key = join_heads(content, token_position, self.num_heads)
        value, padding = self.value_proj(memory.tokens), memory.padding
        masked = None if padding is None else padding[:, None, None]
        dropout = self.dropout if self.training else 0.0
        if self.level_weights is None:
            return self.output_proj(attend(query, key, value, self.num_heads, masked, dropout))
        sizes = memory.level_sizes
        masks = [None] * len(sizes) if masked is None else masked.split(sizes, dim=-1)
        levels = zip(key.split(sizes, dim=1), value.split(sizes, dim=1), masks, strict=True)
        attended = torch.stack([attend(query, k, v, self.num_heads, m, dropout) for k, v, m in levels], dim=-1)
        return self.output_proj(
            (attended * self.level_weights(projected_queries).softmax(dim=-1)[..., None, :]).sum(dim=-1)
        )


class ConditionalDecoderLayer(DecoderLayer):
    """Self-attention, conditional cross-attention, feed-forward; post-norm.

    Args:
        dim: width of the queries.
        num_heads: number of heads of both attentions.
        dim_feedforward: width of the feed-forward network.
        num_levels: 1 attends to all tokens at once; a larger number attends to each map separately (only in DN-DETR's
            models with a deformable encoder).
        dropout: dropout of the attentions and the feed-forward network.
        activation: activation of the feed-forward network.

    Raises:
        ValueError: if ``num_heads`` does not divide ``dim``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        dim_feedforward: int,
        num_levels: int = 1,
        dropout: float = 0.0,
        activation: str = "relu",
    ):
        super().__init__(dim, num_levels if num_levels > 1 else None)
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not divisible by num_heads {num_heads}")
        self.self_attn = ConditionalSelfAttention(dim, num_heads, dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn = ConditionalCrossAttention(dim, num_heads, dropout, num_levels)
        self.norm2 = nn.LayerNorm(dim)
        self.linear1 = Linear(dim, dim_feedforward)
        self.linear2 = Linear(dim_feedforward, dim)
        self.norm3 = nn.LayerNorm(dim)
        self.activation = build_activation(activation)
        self.dropout = nn.Dropout(dropout)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def next_layer(self) -> "ConditionalDecoderLayer":
        layer = super().next_layer()
        assert isinstance(layer, ConditionalDecoderLayer)
        layer.cross_attn.query_position = None
        return layer

    def forward(
        self,
        queries: Tensor,
        position: QueryPosition,
        references: Tensor,
        memory: Memory,
        blocks: Sequence[AttentionBlock] = (),
    ) -> Tensor:
        """Apply the layer; see :meth:`DecoderLayer.forward`.

        Raises:
            ValueError: if ``position.center`` or ``memory.position`` is missing.
        """
        if position.center is None or memory.position is None:
            raise ValueError(
                "conditional cross-attention compares positions: it needs decoder.position=ModulatedAnchorPosition "
                "and an encoder that returns token positions (DeformableEncoder, TransformerEncoder)"
            )
        attended, projected_queries = self.self_attn(queries, position.embedding, blocks)
        queries = self.norm1(queries + self.dropout(attended))
        cross_attended = self.cross_attn(queries, position, memory, projected_queries)
        queries = self.norm2(queries + self.dropout(cross_attended))
        hidden = self.dropout(self.activation(self.linear1(queries)))
        return self.norm3(queries + self.dropout(self.linear2(hidden)))
