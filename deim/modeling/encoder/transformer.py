"""Transformer encoder on one feature map (DETR, arXiv 2005.12872; DAB-DETR, arXiv 2201.12329)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deim.layers import MLP, Linear, SelfAttention, build_activation, map_coordinates, sine_embedding
from deim.modeling.encoder.backbone_features import for_backbone
from deim.structures.memory import Memory, resize_padding


class TransformerEncoderLayer(nn.Module):
    """Post-norm self-attention and feed-forward layer; position embeddings are added to queries and keys."""

    supports_activation_checkpointing = True

    def __init__(self, dim: int, num_heads: int, dim_feedforward: int, dropout: float, activation: str):
        super().__init__()
        self.self_attn = SelfAttention(dim, num_heads, dropout)
        self.linear1 = Linear(dim, dim_feedforward)
        self.linear2 = Linear(dim_feedforward, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.activation = build_activation(activation)

    def forward(self, tokens: Tensor, position: Tensor, padding: Tensor | None = None) -> Tensor:
        """Apply the layer.

        Args:
            tokens: (B, N, dim).
            position: (B, N, dim) or (1, N, dim).
            padding: (B, N) bool, True for tokens to ignore.
        """
        attended = self.self_attn(tokens + position, tokens, padding=padding)
        tokens = self.norm1(tokens + self.dropout(attended))
        hidden = self.dropout(self.activation(self.linear1(tokens)))
        return self.norm2(tokens + self.dropout(self.linear2(hidden)))


class TransformerEncoder(nn.Module):
    """Encoder of DAB-DETR (section 4): position embeddings are scaled by a function of the tokens.

    Args:
        in_features: names of the backbone's features, finest first; only the last is used.
        in_channels: widths of the features.
        dim: width of the tokens.
        num_layers, num_heads, dim_feedforward, dropout, activation: number of layers, and their settings.
        temperature: temperature of the sine embedding of positions.

    Raises:
        ValueError: if ``num_heads`` does not divide ``dim``.
    """

    def __init__(
        self,
        in_features: Sequence[str],
        in_channels: Sequence[int],
        dim: int = 256,
        num_layers: int = 6,
        num_heads: int = 8,
        dim_feedforward: int = 2048,
        dropout: float = 0.0,
        activation: str = "prelu",
        temperature: float = 20.0,
    ):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not divisible by num_heads {num_heads}")
        self.in_feature, self.temperature = in_features[-1], temperature
        self.input_proj = nn.Conv2d(in_channels[-1], dim, 1)
        self.layers = nn.ModuleList(
            TransformerEncoderLayer(dim, num_heads, dim_feedforward, dropout, activation) for _ in range(num_layers)
        )
        self.position_scale = MLP(dim, dim, dim, 2)
        for parameter in [*self.layers.parameters(), *self.position_scale.parameters()]:
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    @classmethod
    def for_backbone(cls, **arguments: Any) -> Callable[[nn.Module], "TransformerEncoder"]:
        """Return a function that builds the encoder for a backbone.

        See :func:`deim.modeling.encoder.backbone_features.for_backbone`.
        """
        return for_backbone(cls, **arguments)

    def forward(self, features: Mapping[str, Tensor], padding: Tensor | None = None) -> Memory:
        """Encode the backbone's last feature map.

        Args:
            features: {name: (B, C, h, w)} from the backbone.
            padding: (B, H, W) bool at any resolution, True on padded pixels; None without padding.
        """
        projected = self.input_proj(features[self.in_feature])
        memory = Memory.from_maps([projected], padding)
        tokens, position = memory.tokens, self._positions(projected, padding)
        for layer in self.layers:
            tokens = layer(tokens, position * self.position_scale(tokens), memory.padding)
        return Memory(tokens, memory.spatial_shapes, memory.padding, position)

    def _positions(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """Return (B or 1, h * w, dim) sine embeddings, of the row in the first half of the channels and of the column in
        the second."""
        size = (x.shape[-2], x.shape[-1])
        mask = torch.zeros(1, *size, dtype=torch.bool, device=x.device)
        coordinates = map_coordinates(mask if padding is None else resize_padding(padding, size))
        return sine_embedding(coordinates, x.shape[1] // 2, self.temperature).flatten(1, 2).to(x.dtype)
