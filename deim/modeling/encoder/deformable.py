"""Encoder with deformable attention across feature maps (Deformable DETR, arXiv 2010.04159, section 4.1)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deim.layers import Linear, MultiScaleDeformableAttention, build_activation, map_coordinates, sine_embedding
from deim.modeling.encoder.backbone_features import for_backbone
from deim.structures.memory import Memory, resize_padding


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention of tokens, and feed-forward network; post-norm."""

    supports_activation_checkpointing = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_levels: int,
        num_points: int,
        dim_feedforward: int,
        dropout: float,
        activation: str,
    ):
        super().__init__()
        self.self_attn = MultiScaleDeformableAttention(dim, num_heads, [num_points] * num_levels, project=True)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = Linear(dim, dim_feedforward)
        self.linear2 = Linear(dim_feedforward, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.activation = build_activation(activation)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, tokens: Tensor, position: Tensor, references: Tensor, memory: Memory) -> Tensor:
        """Apply the layer.

        Args:
            tokens: (B, S, dim).
            position: (B, S, dim) or (1, S, dim) position embeddings.
            references: (B, S, 2) centers of the tokens.
            memory: shapes and padding of the maps.
        """
        attended = self.self_attn(
            tokens + position, references, tokens, memory.spatial_shapes, memory.padding, memory.valid_ratios
        )
        tokens = self.norm1(tokens + self.dropout(attended))
        hidden = self.dropout(self.activation(self.linear1(tokens)))
        return self.norm2(tokens + self.dropout(self.linear2(hidden)))


class DeformableEncoder(nn.Module):
    """Encoder in which every token attends to a few points of all maps.

    Args:
        in_features: names of the backbone's features, finest first.
        in_channels: widths of the features.
        dim: width of the tokens.
        num_levels: number of maps; additional ones are computed from the coarsest by convolutions with stride 2.
        num_layers, num_heads, dim_feedforward, dropout, activation: transformer layers.
        num_points: number of sampling points on each map.
        temperature: temperature of the sine embedding of positions.
        position_offset: added to the row and column numbers, which count from 1, before they are embedded.

    Raises:
        ValueError: if ``in_channels`` and ``in_features`` differ in length, or there are fewer maps than features.
    """

    def __init__(
        self,
        in_features: Sequence[str],
        in_channels: Sequence[int],
        dim: int = 256,
        num_levels: int = 4,
        num_layers: int = 6,
        num_heads: int = 8,
        num_points: int = 4,
        dim_feedforward: int = 1024,
        dropout: float = 0.1,
        activation: str = "relu",
        temperature: float = 10000.0,
        position_offset: float = -0.5,
    ):
        super().__init__()
        if len(in_channels) != len(in_features):
            raise ValueError(f"{len(in_channels)} in_channels for {len(in_features)} in_features")
        if num_levels < len(in_features):
            raise ValueError(f"num_levels is {num_levels}, but in_features has {len(in_features)} entries")
        self.in_features = list(in_features)
        self.temperature, self.position_offset = temperature, position_offset
        extra = num_levels - len(in_channels)
        widths = [*in_channels, *([in_channels[-1], *[dim] * (extra - 1)] if extra else [])]
        self.input_proj = nn.ModuleList(
            _projection(width, dim, downsample=index >= len(in_channels)) for index, width in enumerate(widths)
        )
        self.level_embedding = nn.Parameter(torch.empty(num_levels, dim).normal_())
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(dim, num_heads, num_levels, num_points, dim_feedforward, dropout, activation)
            for _ in range(num_layers)
        )

    @classmethod
    def for_backbone(cls, **arguments: Any) -> Callable[[nn.Module], "DeformableEncoder"]:
        """Return a function that builds the encoder for a backbone.

        See :func:`deim.modeling.encoder.backbone_features.for_backbone`.
        """
        return for_backbone(cls, **arguments)

    def forward(self, features: Mapping[str, Tensor], padding: Tensor | None = None) -> Memory:
        """Encode the backbone's features.

        Args:
            features: {name: (B, C, h, w)} from the backbone.
            padding: (B, H, W) bool at any resolution, True on padded pixels; None without padding.
        """
        maps = self._project(features)
        memory = Memory.from_maps(maps, padding)
        coordinates = self._coordinates(memory.spatial_shapes, padding, maps[0].device)
        position = self._positions(coordinates, memory).to(maps[0].dtype)
        references = token_references(memory, maps[0].device)
        tokens = memory.tokens
        for layer in self.layers:
            tokens = layer(tokens, position, references, memory)
        return Memory(tokens, memory.spatial_shapes, memory.padding, position)

    def _project(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Return (B, dim, h, w) of each level, finest first."""
        inputs = [features[name] for name in self.in_features]
        maps = [project(x) for project, x in zip(self.input_proj[: len(inputs)], inputs, strict=True)]
        for index, project in enumerate(self.input_proj[len(inputs) :]):
            maps.append(project(inputs[-1] if index == 0 else maps[-1]))
        return maps

    def _coordinates(
        self, spatial_shapes: Sequence[tuple[int, int]], padding: Tensor | None, device: torch.device
    ) -> Tensor:
        """Return the (B, S, 2) row and column of each token for the embedding; B is 1 without padding."""
        masks = [
            torch.zeros(1, *shape, dtype=torch.bool, device=device)
            if padding is None
            else resize_padding(padding, shape)
            for shape in spatial_shapes
        ]
        return torch.cat([map_coordinates(mask, self.position_offset).flatten(1, 2) for mask in masks], dim=1)

    def _positions(self, coordinates: Tensor, memory: Memory) -> Tensor:
        """Return the (B, S, dim) embedding of row, column and level of each token; B is 1 without padding."""
        embedded = sine_embedding(coordinates, self.level_embedding.shape[1] // 2, self.temperature)
        levels = zip(self.level_embedding, memory.level_sizes, strict=True)
        return embedded + torch.cat([level.expand(size, -1) for level, size in levels])


def _projection(in_channels: int, dim: int, downsample: bool) -> nn.Sequential:
    kernel, stride, padding = (3, 2, 1) if downsample else (1, 1, 0)
    conv = nn.Conv2d(in_channels, dim, kernel, stride, padding)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.get_parameter("bias"))
    return nn.Sequential(conv, nn.GroupNorm(32, dim))


def token_references(memory: Memory, device: torch.device) -> Tensor:
    """Return the (B, S, 2) center of each token, x and y relative to the image without padding."""
    levels = []
    for level, (height, width) in enumerate(memory.spatial_shapes):
        rows, columns = torch.meshgrid(
            (torch.arange(height, device=device) + 0.5) / height,
            (torch.arange(width, device=device) + 0.5) / width,
            indexing="ij",
        )
        centers = torch.stack([columns, rows], dim=-1).flatten(0, 1)[None]
        levels.append(centers if memory.valid_ratios is None else centers / memory.valid_ratios[:, level : level + 1])
    return torch.cat(levels, dim=1).expand(memory.tokens.shape[0], -1, -1)
