"""Re-parameterizable fusion blocks of the hybrid encoder.

:class:`CSPRepLayer` is RT-DETR's fusion block (arXiv 2304.08069, section 4.2). :class:`RepELAN` is D-FINE's fusion
block (arXiv 2410.13842, section 4.3: GELAN with CSP and RepVGG blocks). :class:`SplitRepELAN` and
:class:`LightRepELAN` are the fusion blocks of DEIMv2 (arXiv 2509.20787).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deim.layers.activation import build_activation, in_place
from deim.layers.conv import ConvBNAct, RepConvBNAct, UpsampleConcatConvBNAct, fuse_conv_norm


class RepVGGBlock(nn.Module):
    """Sum of a 3x3 and a 1x1 convolution, each normalized; a single 3x3 convolution in deployment."""

    def __init__(self, channels: int, activation: str | None = "silu"):
        super().__init__()
        self.conv1 = ConvBNAct(channels, channels, 3)
        self.conv2 = ConvBNAct(channels, channels, 1)
        self.activation = build_activation(activation)
        self.fused: nn.Conv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.conv1(x) + self.conv2(x) if self.fused is None else self.fused(x))

    def reparameterize(self) -> None:
        """Fold both branches into one convolution, in place; further calls have no effect."""
        if self.fused is not None:
            return
        self.fused = fuse_conv_norm(self.conv1.conv, self.conv1.norm)
        self.activation = in_place(self.activation)
        fused_1x1 = dict(fuse_conv_norm(self.conv2.conv, self.conv2.norm).named_parameters())
        padded = F.pad(fused_1x1["weight"], (1, 1, 1, 1))
        with torch.no_grad():
            for name, parameter in self.fused.named_parameters():
                parameter.add_(padded if name == "weight" else fused_1x1[name])
        del self.conv1, self.conv2


class CSPRepLayer(nn.Module):
    """Sum of two 1x1 branches, one followed by ``num_blocks`` RepVGG blocks; then a 1x1 convolution to the output
    width."""

    supports_activation_checkpointing = True

    def __init__(
        self, in_channels: int, out_channels: int, num_blocks: int, expansion: float = 1.0, activation: str = "silu"
    ):
        super().__init__()
        hidden = int(out_channels * expansion)
        self.conv1 = UpsampleConcatConvBNAct(in_channels, hidden, activation=activation)
        self.conv2 = UpsampleConcatConvBNAct(in_channels, hidden, activation=activation)
        self.bottlenecks = nn.Sequential(*(RepVGGBlock(hidden, activation) for _ in range(num_blocks)))
        same = hidden == out_channels
        self.conv3 = nn.Identity() if same else RepConvBNAct(hidden, out_channels, activation=activation)

    def forward(self, x: Tensor, coarser: Tensor | None = None) -> Tensor:
        """See :class:`~deim.layers.conv.UpsampleConcatConvBNAct`."""
        return self.conv3(self.bottlenecks(self.conv1(x, coarser)) + self.conv2(x, coarser))


class SplitCSPRepLayer(nn.Module):
    """1x1 convolution to twice the width; the second half passes through ``num_blocks`` RepVGG blocks, and the first
    half is added."""

    def __init__(self, in_channels: int, channels: int, num_blocks: int, activation: str = "silu"):
        super().__init__()
        self.conv1 = RepConvBNAct(in_channels, 2 * channels, activation=activation)
        self.bottlenecks = nn.Sequential(*(RepVGGBlock(channels, activation) for _ in range(num_blocks)))

    def forward(self, x: Tensor) -> Tensor:
        shortcut, processed = self.conv1(x).chunk(2, dim=1)
        return self.bottlenecks(processed) + shortcut


class RepELAN(nn.Module):
    """Layer aggregation: half of the channels pass through two CSP stages; all intermediate outputs are concatenated.

    Args:
        in_channels, out_channels: input and output width.
        split_channels: width after the first convolution; one half enters the stages.
        stage_channels: width of each stage.
        num_blocks: number of RepVGG blocks in each stage.
        activation: name of the activation.
    """

    supports_activation_checkpointing = True

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
        self.cv1 = UpsampleConcatConvBNAct(in_channels, split_channels, activation=activation)
        self.cv2 = self._stage(split_channels // 2, stage_channels, num_blocks, activation)
        self.cv3 = self._stage(stage_channels, stage_channels, num_blocks, activation)
        self.cv4 = RepConvBNAct(split_channels + 2 * stage_channels, out_channels, activation=activation)

    @staticmethod
    def _stage(in_channels: int, channels: int, num_blocks: int, activation: str) -> nn.Sequential:
        return nn.Sequential(
            CSPRepLayer(in_channels, channels, num_blocks, activation=activation),
            RepConvBNAct(channels, channels, 3, activation=activation),
        )

    def forward(self, x: Tensor, coarser: Tensor | None = None) -> Tensor:
        """See :class:`~deim.layers.conv.UpsampleConcatConvBNAct`."""
        # Use both halves instead of the whole and one half, whose gradient would cost two more passes over memory.
        skipped, processed = self.cv1(x, coarser).chunk(2, dim=1)
        # One contiguous copy; otherwise each convolution copies its input, in the forward and the backward pass.
        first = self.cv2(processed.clone())
        return self.cv4(torch.cat([skipped, processed, first, self.cv3(first)], dim=1))


class SplitRepELAN(RepELAN):
    """:class:`RepELAN` whose CSP stages begin with one convolution that is split, instead of two convolutions."""

    @staticmethod
    def _stage(in_channels: int, channels: int, num_blocks: int, activation: str) -> nn.Sequential:
        return nn.Sequential(
            SplitCSPRepLayer(in_channels, channels, num_blocks, activation),
            RepConvBNAct(channels, channels, 3, activation=activation),
        )


class LightRepELAN(RepELAN):
    """:class:`SplitRepELAN` without the 3x3 convolutions after the CSP stages."""

    @staticmethod
    def _stage(in_channels: int, channels: int, num_blocks: int, activation: str) -> nn.Sequential:
        return nn.Sequential(SplitCSPRepLayer(in_channels, channels, num_blocks, activation))
