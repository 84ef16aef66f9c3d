"""Hybrid encoder: attention on the coarsest map, convolutional fusion across maps.

RT-DETR (arXiv 2304.08069), section 4.2: AIFI and CCFF. D-FINE (arXiv 2410.13842), section 4.3, replaces the fusion
blocks by :class:`~deim.layers.RepELAN` and the strided convolutions by separable downsampling. DEIMv2 (arXiv 2509.20787)
adds maps instead of concatenating them, and simplifies the fusion blocks.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deim.layers import (
    ConvBNAct,
    CSPRepLayer,
    LightRepELAN,
    RepConvBNAct,
    RepELAN,
    SplitRepELAN,
    sine_position_embedding,
)
from deim.modeling.encoder.backbone_features import for_backbone
from deim.modeling.encoder.transformer import TransformerEncoderLayer
from deim.structures.memory import resize_padding

# Values of ``fusion`` -> fusion block; "csp" stands for CSPRepLayer.
ELAN_BLOCKS: dict[str, type[RepELAN]] = {"elan": RepELAN, "split_elan": SplitRepELAN, "light_elan": LightRepELAN}


class SeparableDownsample(nn.Module):
    """Pointwise convolution, then depthwise 3x3 convolution with stride 2, without activations."""

    def __init__(self, channels: int):
        super().__init__()
        self.cv1 = RepConvBNAct(channels, channels)
        self.cv2 = RepConvBNAct(channels, channels, 3, 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv2(self.cv1(x))


class HybridEncoder(nn.Module):
    """Encoder from backbone features to maps of one width at the same strides.

    Args:
        in_features: names of the backbone's features, finest first.
        in_channels: widths of the features.
        hidden_dim: width of the hidden layers and outputs.
        num_heads, dim_feedforward, dropout: transformer layers on the coarsest map.
        num_layers: number of transformer layers.
        expansion: width of the fusion stages relative to half of ``hidden_dim``.
        depth_multiplier: depth of the fusion stages relative to 3 blocks.
        activation, attention_activation: activations of the fusion stages and of the transformer layers.
        fusion: "elan" (D-FINE), "split_elan" (DEIMv2 N), "light_elan" (DEIMv2 S to X), or "csp" (RT-DETR): CSP blocks,
            full convolutions for downsampling and an activation after the lateral convolutions. With "csp",
            ``expansion`` is relative to ``hidden_dim``.
        merge: operation that joins two maps before a fusion block: "concat" (RT-DETR, D-FINE) or "sum" (DEIMv2).
        skip_equal: do not project features that already have the width ``hidden_dim`` (DEIMv2).

    Raises:
        ValueError: if ``fusion`` or ``merge`` is unknown, ``in_channels`` and ``in_features`` differ in length, or
            ``num_heads`` does not divide ``hidden_dim``.
    """

    def __init__(
        self,
        in_features: Sequence[str],
        in_channels: Sequence[int],
        hidden_dim: int = 256,
        num_heads: int = 8,
        dim_feedforward: int = 1024,
        dropout: float = 0.0,
        num_layers: int = 1,
        expansion: float = 1.0,
        depth_multiplier: float = 1.0,
        activation: str = "silu",
        attention_activation: str = "gelu",
        fusion: str = "elan",
        merge: str = "concat",
        skip_equal: bool = False,
    ):
        super().__init__()
        if fusion not in ("csp", *ELAN_BLOCKS):
            raise ValueError(f"unknown fusion {fusion!r}; choose one of {', '.join(('csp', *ELAN_BLOCKS))}")
        if merge not in ("concat", "sum"):
            raise ValueError(f"unknown merge {merge!r}; choose concat or sum")
        if len(in_channels) != len(in_features):
            raise ValueError(f"{len(in_channels)} in_channels for {len(in_features)} in_features")
        if hidden_dim % num_heads:
            raise ValueError(f"hidden_dim {hidden_dim} is not divisible by num_heads {num_heads}")
        self.in_features, self.merge = list(in_features), merge
        self.input_proj = nn.ModuleList(
            nn.Identity() if skip_equal and width == hidden_dim else ConvBNAct(width, hidden_dim)
            for width in in_channels
        )
        self.encoder = nn.ModuleList(
            TransformerEncoderLayer(hidden_dim, num_heads, dim_feedforward, dropout, attention_activation)
            for _ in range(num_layers)
        )

        blocks = round(3 * depth_multiplier)
        merged = hidden_dim if merge == "sum" else hidden_dim * 2

        def block() -> nn.Module:
            if fusion == "csp":
                return CSPRepLayer(merged, hidden_dim, blocks, expansion, activation)
            stage = round(expansion * hidden_dim // 2)
            return ELAN_BLOCKS[fusion](merged, hidden_dim, hidden_dim * 2, stage, blocks, activation)

        def downsample() -> nn.Module:
            if fusion == "csp":
                return RepConvBNAct(hidden_dim, hidden_dim, 3, 2, activation=activation)
            return SeparableDownsample(hidden_dim)

        steps = range(len(in_channels) - 1)
        lateral_activation = activation if fusion == "csp" else None
        self.lateral_convs = nn.ModuleList(
            RepConvBNAct(hidden_dim, hidden_dim, activation=lateral_activation) for _ in steps
        )
        self.fpn_blocks = nn.ModuleList(block() for _ in steps)
        self.downsample_convs = nn.ModuleList(downsample() for _ in steps)
        self.pan_blocks = nn.ModuleList(block() for _ in steps)

    @classmethod
    def for_backbone(cls, **arguments: Any) -> Callable[[nn.Module], "HybridEncoder"]:
        """Return a function that builds the encoder for a backbone.

        See :func:`deim.modeling.encoder.backbone_features.for_backbone`.
        """
        return for_backbone(cls, **arguments)

    def forward(self, features: Mapping[str, Tensor], padding: Tensor | None = None) -> list[Tensor]:
        """Encode the backbone's features.

        Args:
            features: {name: (B, C, h, w)} from the backbone.
            padding: (B, H, W) bool at any resolution, True on padded pixels; None without padding.

        Returns:
            maps (B, hidden_dim, h, w), finest first.
        """
        maps = [proj(features[name]) for proj, name in zip(self.input_proj, self.in_features, strict=True)]
        maps[-1] = self._attend(maps[-1], padding)
        return self._bottom_up(self._top_down(maps))

    def _attend(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """Apply self-attention (AIFI) to the coarsest map."""
        if not len(self.encoder):
            return x
        height, width = x.shape[-2:]
        tokens = x.flatten(2).transpose(1, 2)
        position = sine_position_embedding(height, width, x.shape[1], device=x.device).to(tokens.dtype)
        token_padding = None if padding is None else resize_padding(padding, (height, width)).flatten(1)
        for layer in self.encoder:
            tokens = layer(tokens, position, token_padding)
        return tokens.transpose(1, 2).unflatten(-1, (height, width)).contiguous()

    def _top_down(self, maps: list[Tensor]) -> list[Tensor]:
        """Fuse from coarse to fine; return the fused maps, finest first."""
        fused = [maps[-1]]
        for lateral, block, finer in zip(self.lateral_convs, self.fpn_blocks, reversed(maps[:-1]), strict=True):
            fused[0] = lateral(fused[0])
            if self.merge == "sum":
                fused.insert(0, block(F.interpolate(fused[0], scale_factor=2.0, mode="nearest") + finer))
            else:
                fused.insert(0, block(finer, fused[0]))
        return fused

    def _bottom_up(self, maps: list[Tensor]) -> list[Tensor]:
        """Fuse from fine to coarse; return the outputs, finest first."""
        outputs = [maps[0]]
        for downsample, block, coarser in zip(self.downsample_convs, self.pan_blocks, maps[1:], strict=True):
            finer = downsample(outputs[-1])
            outputs.append(block(finer + coarser if self.merge == "sum" else torch.cat([finer, coarser], dim=1)))
        return outputs
