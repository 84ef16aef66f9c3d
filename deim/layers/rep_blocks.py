"""The re-parameterisable blocks of the hybrid encoder's feature fusion.

CSPRepLayer is RT-DETR's fusion block (arXiv 2304.08069, section 4.2), RepELAN D-FINE's
(arXiv 2410.13842, section 4.3: GELAN with CSP and RepVGG inside).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deim.layers.activation import build_activation, in_place
from deim.layers.conv import ConvNorm, FusibleConvNorm, FusionConvNorm, fuse_conv_norm


class RepVGGBlock(nn.Module):
    """Sum of a 3x3 and a 1x1 convolution, each normalized; one 3x3 convolution in deployment."""

    def __init__(self, channels: int, activation: str | None = "silu"):
        super().__init__()
        self.conv1 = ConvNorm(channels, channels, 3)
        self.conv2 = ConvNorm(channels, channels, 1)
        self.activation = build_activation(activation)
        self.fused: nn.Conv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.conv1(x) + self.conv2(x) if self.fused is None else self.fused(x))

    def reparameterize(self) -> None:
        """Fold both branches into one convolution, in place; a second call does nothing."""
        if self.fused is not None:
            return
        self.fused = fuse_conv_norm(self.conv1.conv, self.conv1.norm)
        self.activation = in_place(self.activation)
        added = dict(fuse_conv_norm(self.conv2.conv, self.conv2.norm).named_parameters())
        padded = F.pad(added["weight"], (1, 1, 1, 1))
        with torch.no_grad():
            for name, parameter in self.fused.named_parameters():
                parameter.add_(padded if name == "weight" else added[name])
        del self.conv1, self.conv2


class CSPRepLayer(nn.Module):
    """Two 1x1 branches, one through ``num_blocks`` RepVGG blocks, added; 1x1 to the output width."""

    def __init__(
        self, in_channels: int, out_channels: int, num_blocks: int, expansion: float = 1.0, activation: str = "silu"
    ):
        super().__init__()
        hidden = int(out_channels * expansion)
        self.conv1 = FusionConvNorm(in_channels, hidden, activation=activation)
        self.conv2 = FusionConvNorm(in_channels, hidden, activation=activation)
        self.bottlenecks = nn.Sequential(*(RepVGGBlock(hidden, activation) for _ in range(num_blocks)))
        same = hidden == out_channels
        self.conv3 = nn.Identity() if same else FusibleConvNorm(hidden, out_channels, activation=activation)

    def forward(self, x: Tensor, coarser: Tensor | None = None) -> Tensor:
        """See :class:`~deim.layers.conv.FusionConvNorm`."""
        return self.conv3(self.bottlenecks(self.conv1(x, coarser)) + self.conv2(x, coarser))


class RepELAN(nn.Module):
    """Layer aggregation: half the channels pass two chained CSP stages; every stage's output is kept.

    Args:
        split_channels: width after the first convolution, of which one half enters the stages.
        stage_channels: width of each stage.
        num_blocks: RepVGG blocks in each stage.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        split_channels: int,
        stage_channels: int,
        num_blocks: int,
        activation: str = "silu",
    ):
        super().__init__()
        self.cv1 = FusionConvNorm(in_channels, split_channels, activation=activation)
        self.cv2 = self._stage(split_channels // 2, stage_channels, num_blocks, activation)
        self.cv3 = self._stage(stage_channels, stage_channels, num_blocks, activation)
        self.cv4 = FusibleConvNorm(split_channels + 2 * stage_channels, out_channels, activation=activation)

    @staticmethod
    def _stage(in_channels: int, channels: int, num_blocks: int, activation: str) -> nn.Sequential:
        return nn.Sequential(
            CSPRepLayer(in_channels, channels, num_blocks, activation=activation),
            FusibleConvNorm(channels, channels, 3, activation=activation),
        )

    def forward(self, x: Tensor, coarser: Tensor | None = None) -> Tensor:
        """See :class:`~deim.layers.conv.FusionConvNorm`."""
        # Both halves by name: the gradient of a whole that is also used in part costs two passes more.
        kept, entering = self.cv1(x, coarser).chunk(2, dim=1)
        # One copy: else each convolution that takes the half would make its own, in both directions.
        first = self.cv2(entering.clone())
        return self.cv4(torch.cat([kept, entering, first, self.cv3(first)], dim=1))
