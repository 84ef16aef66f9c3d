"""Convolution followed by batch normalization and an activation."""

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from deim.layers.activation import build_activation, in_place
from deim.layers.normalization import normalize


def fuse_conv_norm(conv: nn.Conv2d, norm: nn.Module) -> nn.Conv2d:
    """Return one convolution with bias that computes ``norm(conv(x))`` in eval mode.

    Args:
        conv: convolution without bias.
        norm: BatchNorm2d or FrozenBatchNorm2d.
    """
    eps: Any = norm.eps
    values: dict[str, Any] = norm.state_dict()  # parameters in BatchNorm2d, buffers in FrozenBatchNorm2d
    scale = values["weight"] / (values["running_var"] + eps).sqrt()
    fused = copy.deepcopy(conv)
    fused.weight = nn.Parameter(conv.weight.detach() * scale[:, None, None, None])
    fused.bias = nn.Parameter(values["bias"] - values["running_mean"] * scale)
    return fused


def convolve_parts(conv: nn.Conv2d, *parts: Tensor) -> list[Tensor]:
    """Convolve parts (B, C, h, w) of the input channels separately.

    The sum of the results equals the convolution of the concatenated parts. Avoiding the concatenation saves one pass
    over memory in inference and three in a training step. The parts may differ in h and w if the results are resized
    before they are summed.

    Args:
        conv: convolution with one group.
        parts: inputs in channel order.
    """
    weights = conv.weight.split([part.shape[1] for part in parts], dim=1)
    biases = [*[None] * (len(parts) - 1), conv.bias]
    return [
        F.conv2d(part, weight, bias, conv.stride, conv.padding)
        for part, weight, bias in zip(parts, weights, biases, strict=True)
    ]


class ConvBNAct(nn.Module):
    """Convolution without bias, batch normalization and activation; "same" padding for odd kernels."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        activation: str | None = None,
    ):
        super().__init__()
        padding = (kernel_size - 1) // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.activation = build_activation(activation)
        self.fused: nn.Conv2d | None = None

    @property
    def convolution(self) -> nn.Conv2d:
        """The convolution, with the normalization folded in after :meth:`fold`."""
        return self.conv if self.fused is None else self.fused

    def forward(self, x: Tensor) -> Tensor:
        return self.normalize_and_activate(self.convolution(x))

    def normalize_and_activate(self, convolved: Tensor) -> Tensor:
        """Apply the normalization, unless folded, and the activation to the output of the convolution."""
        if self.fused is not None:
            return self.activation(convolved)
        return normalize(self.norm, self.activation, convolved)

    def fold(self) -> None:
        """Fold the normalization into the convolution, in place; further calls have no effect."""
        if self.fused is None:
            self.fused = fuse_conv_norm(self.conv, self.norm)
            self.activation = in_place(self.activation)
            del self.conv, self.norm


class RepConvBNAct(ConvBNAct):
    """:class:`ConvBNAct` that re-parameterization folds.

    The code of D-FINE and DEIM folds the same layers in its deployed weights. These weights are therefore compatible.
    """

    def reparameterize(self) -> None:
        """See :meth:`fold`."""
        self.fold()


class UpsampleConcatConvBNAct(RepConvBNAct):
    """Pointwise :class:`RepConvBNAct` of a coarser map, upsampled by 2, concatenated with a finer map.

    A pointwise convolution and nearest-neighbor upsampling commute. The coarser map is therefore convolved before it is
    upsampled. Its part of the convolution then takes a quarter of the operations, forward and backward.
    """

    def __init__(self, in_channels: int, out_channels: int, activation: str | None = None):
        super().__init__(in_channels, out_channels, activation=activation)

    def forward(self, x: Tensor, coarser: Tensor | None = None) -> Tensor:
        """Compute the convolution of the upsampled ``coarser`` map concatenated with ``x``.

        Args:
            x: (B, C, h, w).
            coarser: (B, C', h / 2, w / 2), the first channels of the concatenation; None if ``x`` is
                already the concatenation.

        Returns:
            (B, out_channels, h, w).
        """
        if coarser is None:
            return super().forward(x)
        conv_coarser, conv_x = convolve_parts(self.convolution, coarser, x)
        return self.normalize_and_activate(F.interpolate(conv_coarser, scale_factor=2.0, mode="nearest").add_(conv_x))
