"""Decoder layers with deformable cross-attention, in variants for the fusion of its output with the queries."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deim.layers import AttentionBlock, Linear, MultiScaleDeformableAttention, SelfAttention, build_activation
from deim.modeling.decoder.position import QueryPosition
from deim.structures.memory import Memory

# LayerNorm of values beyond float16's range gives NaN under autocast.
_FLOAT16_MAX = 65504.0


class DecoderLayer(nn.Module):
    """Base class of decoder layers.

    Args:
        dim: width of the queries.
        num_levels: number of maps that the layer attends to; None if it does not distinguish maps.
    """

    supports_activation_checkpointing = True

    def __init__(self, dim: int, num_levels: int | None):
        super().__init__()
        self.dim, self.num_levels = dim, num_levels

    def next_layer(self) -> "DecoderLayer":
        """Return a copy of the layer, to be used as a later layer."""
        return copy.deepcopy(self)

    def forward(
        self,
        queries: Tensor,
        position: QueryPosition,
        references: Tensor,
        memory: Memory,
        blocks: Sequence[AttentionBlock] = (),
    ) -> Tensor:
        """Apply the layer.

        Args:
            queries: (B, Q, dim).
            position: position embeddings of the queries.
            references: (B, Q, 4) cxcywh boxes or (B, Q, 2) points, relative to the image without padding.
            memory: output of the encoder.
            blocks: attention pattern of the self-attention; empty if all queries attend to all queries.

        Returns:
            (B, Q, dim).
        """
        raise NotImplementedError


class DeformableDecoderLayer(DecoderLayer):
    """Self-attention, deformable cross-attention, feed-forward; post-norm.

    A subclass defines the fusion of the cross-attention output with the queries.

    Args:
        dim: width of the queries.
        num_heads: number of heads of both attentions.
        dim_feedforward: hidden width of the feed-forward network; None if ``feedforward`` is given.
        num_points: number of deformable sampling points on each map.
        dropout: dropout of the attentions and the feed-forward network.
        activation: activation of the feed-forward network.
        project, sampling: options of the cross-attention; see :class:`deim.layers.MultiScaleDeformableAttention`.
        norm: normalization of width ``dim``, copied for each place where the layer normalizes; None for LayerNorm.
        feedforward: module (B, Q, dim) -> (B, Q, dim) in place of the two-layer network, such as
            :class:`deim.layers.SwiGLU`; ``activation`` has no effect on it.
        xavier: initialize the two linear layers of the feed-forward network Xavier-uniformly; False keeps the
            initialization of ``nn.Linear`` (ECDet).

    Raises:
        ValueError: if ``num_heads`` does not divide ``dim``, ``sampling`` or ``activation`` is invalid, or not exactly
            one of ``dim_feedforward`` and ``feedforward`` is given.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        dim_feedforward: int | None,
        num_points: Sequence[int],
        dropout: float = 0.0,
        activation: str = "relu",
        project: bool = False,
        sampling: str = "bilinear",
        norm: nn.Module | None = None,
        feedforward: nn.Module | None = None,
        xavier: bool = True,
    ):
        super().__init__(dim, len(num_points))
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not divisible by num_heads {num_heads}")
        if (dim_feedforward is None) == (feedforward is None):
            raise ValueError("a decoder layer needs exactly one of dim_feedforward and feedforward")
        norm = nn.LayerNorm(dim) if norm is None else norm
        self.self_attn = SelfAttention(dim, num_heads, dropout)
        self.norm1 = copy.deepcopy(norm)
        self.cross_attn = MultiScaleDeformableAttention(dim, num_heads, num_points, project=project, sampling=sampling)
        self.build_fusion(dim, copy.deepcopy(norm))
        self.feedforward = feedforward
        if dim_feedforward is not None:
            self.linear1 = Linear(dim, dim_feedforward)
            self.linear2 = Linear(dim_feedforward, dim)
            if xavier:
                nn.init.xavier_uniform_(self.linear1.weight)
                nn.init.xavier_uniform_(self.linear2.weight)
        self.norm3 = copy.deepcopy(norm)
        self.activation = build_activation(activation)
        self.dropout = nn.Dropout(dropout)

    def build_fusion(self, dim: int, norm: nn.Module) -> None:
        """Create the modules that :meth:`fuse` needs; ``norm`` is a normalization for its result."""
        raise NotImplementedError

    def fuse(self, queries: Tensor, sampled: Tensor) -> Tensor:
        """Fuse the queries and the cross-attention output, both (B, Q, dim)."""
        raise NotImplementedError

    def normalize(self, queries: Tensor) -> Tensor:
        """Normalize the queries as the last step of the layer."""
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
        return self.normalize(queries + self.dropout(self._feed_forward(queries)))

    def _feed_forward(self, queries: Tensor) -> Tensor:
        if self.feedforward is not None:
            return self.feedforward(queries)
        return self.linear2(self.dropout(self.activation(self.linear1(queries))))


class AddNormDecoderLayer(DeformableDecoderLayer):
    """Layer that adds the cross-attention output to the queries (Deformable DETR, RT-DETR)."""

    def build_fusion(self, dim: int, norm: nn.Module) -> None:
        self.norm2 = norm

    def fuse(self, queries: Tensor, sampled: Tensor) -> Tensor:
        return self.norm2(queries + sampled)


class ClampedAddNormDecoderLayer(AddNormDecoderLayer):
    """:class:`AddNormDecoderLayer` that clamps the input of its last normalization to float16's range (DEIMv2)."""

    def normalize(self, queries: Tensor) -> Tensor:
        return super().normalize(queries.clamp(-_FLOAT16_MAX, _FLOAT16_MAX))


class Gate(nn.Module):
    """Learned mixture of the residual and the cross-attention path (D-FINE, "target gating layer")."""

    def __init__(self, dim: int, norm: nn.Module):
        super().__init__()
        self.gate = Linear(2 * dim, 2 * dim)
        self.norm = norm
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, residual: Tensor, update: Tensor) -> Tensor:
        gates = self.gate(torch.cat([residual, update], dim=-1)).sigmoid()
        keep, take = gates.chunk(2, dim=-1)
        return self.norm(keep * residual + take * update)


class GatedDecoderLayer(DeformableDecoderLayer):
    """Layer that mixes the queries and the cross-attention output with a gate (D-FINE).

    It also clamps the input of its last normalization to float16's range.
    """

    def build_fusion(self, dim: int, norm: nn.Module) -> None:
        self.gateway = Gate(dim, norm)

    def fuse(self, queries: Tensor, sampled: Tensor) -> Tensor:
        return self.gateway(queries, sampled)

    def normalize(self, queries: Tensor) -> Tensor:
        return super().normalize(queries.clamp(-_FLOAT16_MAX, _FLOAT16_MAX))
