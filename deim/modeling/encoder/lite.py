"""Lite encoder of DEIMv2 Atto, Femto and Pico (arXiv 2509.20787): two maps from one feature of the backbone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from deim.layers import ConvBNAct, RepConvBNAct, SplitRepELAN
from deim.modeling.encoder.backbone_features import for_backbone


class PooledDownsample(ConvBNAct):
    """Average pooling with a window of 3 and stride 2, then a pointwise convolution."""

    def __init__(self, channels: int, activation: str):
        super().__init__(channels, channels, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.avg_pool2d(x, kernel_size=3, stride=2, padding=1))


class GlobalContext(nn.Module):
    """Addition of the mean over all positions, then a pointwise convolution."""

    def __init__(self, channels: int, activation: str):
        super().__init__()
        self.cv = RepConvBNAct(channels, channels, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv(x + x.mean(dim=(2, 3), keepdim=True))


class LiteEncoder(nn.Module):
    """Encoder from one backbone feature to maps at its stride and at twice its stride.

    Args:
        in_features: name of the feature.
        in_channels: width of the feature.
        hidden_dim: width of the hidden layers and outputs.
        expansion: width of the fusion stages relative to half of ``hidden_dim``.
        depth_multiplier: depth of the fusion stages relative to 3 blocks.
        activation: name of the activation.

    Raises:
        ValueError: if there is more than one feature.
    """

    def __init__(
        self,
        in_features: Sequence[str],
        in_channels: Sequence[int],
        hidden_dim: int = 256,
        expansion: float = 1.0,
        depth_multiplier: float = 1.0,
        activation: str = "silu",
    ):
        super().__init__()
        if len(in_features) != 1 or len(in_channels) != 1:
            raise ValueError(f"LiteEncoder encodes one feature, got {list(in_features)}: set encoder.in_features")
        self.in_features = list(in_features)
        self.input_proj = ConvBNAct(in_channels[0], hidden_dim)
        self.input_downsample = PooledDownsample(hidden_dim, activation)
        self.context = GlobalContext(hidden_dim, activation)
        stage, blocks = round(expansion * hidden_dim // 2), round(3 * depth_multiplier)
        self.fpn_block = SplitRepELAN(hidden_dim, hidden_dim, 2 * hidden_dim, stage, blocks, activation)
        self.downsample = PooledDownsample(hidden_dim, activation)
        self.pan_block = SplitRepELAN(hidden_dim, hidden_dim, 2 * hidden_dim, stage, blocks, activation)

    @classmethod
    def for_backbone(cls, **arguments: Any) -> Callable[[nn.Module], "LiteEncoder"]:
        """Return a function that builds the encoder for a backbone.

        See :func:`deim.modeling.encoder.backbone_features.for_backbone`.
        """
        return for_backbone(cls, **arguments)

    def forward(self, features: Mapping[str, Tensor], padding: Tensor | None = None) -> list[Tensor]:
        """Encode the backbone's feature.

        Args:
            features: {name: (B, C, h, w)} from the backbone; h and w are even.
            padding: not used.

        Returns:
            maps (B, hidden_dim, h, w) and (B, hidden_dim, h / 2, w / 2).
        """
        fine = self.input_proj(features[self.in_features[0]])
        coarse = self.context(self.input_downsample(fine))
        fine = self.fpn_block(fine + F.interpolate(coarse, scale_factor=2.0, mode="nearest"))
        return [fine, self.pan_block(coarse + self.downsample(fine))]
