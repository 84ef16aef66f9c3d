"""Decoder layers with deformable cross-attention, by how its result joins the queries."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deim.layers import AttentionBlock, Linear, MultiScaleDeformableAttention, SelfAttention, build_activation
from deim.modeling.decoder.position import QueryPosition
from deim.structures.memory import Memory

# LayerNorm of values beyond float16's range gives NaN under autocast.
_HALF_RANGE = 65504.0


class DecoderLayer(nn.Module):
    """Base of decoder layers.

    Args:
        dim: of the queries.
        num_levels: how many maps the layer looks at; None if it does not tell them apart.
    """

    def __init__(self, dim: int, num_levels: int | None):
        super().__init__()
        self.dim, self.num_levels = dim, num_levels

    def following(self) -> "DecoderLayer":
        """A layer to come after this one: a copy."""
        return copy.deepcopy(self)

    def forward(
        self,
        queries: Tensor,
        position: QueryPosition,
        references: Tensor,
        memory: Memory,
        blocks: Sequence[AttentionBlock] = (),
    ) -> Tensor:
        """
        Args:
            queries: (B, Q, dim).
            position: of the queries.
            references: (B, Q, 4) cxcywh boxes or (B, Q, 2) points, relative to the image without padding.
            memory: what the encoder made of the image.
            blocks: which queries see which in self-attention; empty for all.

        Returns:
            (B, Q, dim).
        """
        raise NotImplementedError


class DeformableDecoderLayer(DecoderLayer):
    """Self-attention, deformable cross-attention, feed-forward; post-norm.

    A subclass says how the result of the cross-attention joins the queries.

    Args:
        dim: of the queries.
        num_heads: of both attentions.
        dim_feedforward: width of the feed-forward part.
        num_points: deformable sampling points on each map.
        dropout, activation: of the attentions and the feed-forward part.
        project, sampling: of the cross-attention; see :class:`deim.layers.MultiScaleDeformableAttention`.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim``, or an unknown ``sampling`` or ``activation``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        dim_feedforward: int,
        num_points: Sequence[int],
        dropout: float = 0.0,
        activation: str = "relu",
        project: bool = False,
        sampling: str = "bilinear",
    ):
        super().__init__(dim, len(num_points))
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not divisible by num_heads {num_heads}")
        self.self_attn = SelfAttention(dim, num_heads, dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn = MultiScaleDeformableAttention(dim, num_heads, num_points, project=project, sampling=sampling)
        self.build_fusion(dim)
        self.linear1 = Linear(dim, dim_feedforward)
        self.linear2 = Linear(dim_feedforward, dim)
        self.norm3 = nn.LayerNorm(dim)
        self.activation = build_activation(activation)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def build_fusion(self, dim: int) -> None:
        """Make the modules that :meth:`fuse` needs."""
        raise NotImplementedError

    def fuse(self, queries: Tensor, sampled: Tensor) -> Tensor:
        """Queries and what the cross-attention found for them, both (B, Q, dim), in one."""
        raise NotImplementedError

    def normalize(self, queries: Tensor) -> Tensor:
        """The layer's last step."""
        return self.norm3(queries)

    def forward(
        self,
        queries: Tensor,
        position: QueryPosition,
        references: Tensor,
        memory: Memory,
        blocks: Sequence[AttentionBlock] = (),
    ) -> Tensor:
        attended = self.self_attn(queries + position.embedding, queries, blocks)
        queries = self.norm1(queries + self.dropout(attended))
        sampled = self.cross_attn(
            queries + position.embedding,
            references,
            memory.tokens,
            memory.spatial_shapes,
            memory.padding,
            memory.valid_ratios,
        )
        queries = self.fuse(queries, self.dropout(sampled))
        hidden = self.dropout(self.activation(self.linear1(queries)))
        return self.normalize(queries + self.dropout(self.linear2(hidden)))


class AddNormDecoderLayer(DeformableDecoderLayer):
    """The result of the cross-attention is added to the queries (Deformable DETR, RT-DETR)."""

    def build_fusion(self, dim: int) -> None:
        self.norm2 = nn.LayerNorm(dim)

    def fuse(self, queries: Tensor, sampled: Tensor) -> Tensor:
        return self.norm2(queries + sampled)


class Gate(nn.Module):
    """Learnt mixture of the residual and the cross-attention path (D-FINE, section 4.3, "target gating layer")."""

    def __init__(self, dim: int):
        super().__init__()
        self.gate = Linear(2 * dim, 2 * dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, residual: Tensor, update: Tensor) -> Tensor:
        gates = self.gate(torch.cat([residual, update], dim=-1)).sigmoid()
        keep, take = gates.chunk(2, dim=-1)
        return self.norm(keep * residual + take * update)


class GatedDecoderLayer(DeformableDecoderLayer):
    """The result of the cross-attention and the queries are mixed by a gate (D-FINE)."""

    def build_fusion(self, dim: int) -> None:
        self.gateway = Gate(dim)

    def fuse(self, queries: Tensor, sampled: Tensor) -> Tensor:
        return self.gateway(queries, sampled)

    def normalize(self, queries: Tensor) -> Tensor:
        return super().normalize(queries.clamp(-_HALF_RANGE, _HALF_RANGE))
