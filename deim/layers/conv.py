"""Convolution followed by batch normalization."""

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from deim.layers.activation import build_activation, in_place
from deim.layers.normalization import normalize


def fuse_conv_norm(conv: nn.Conv2d, norm: nn.Module) -> nn.Conv2d:
    """One convolution with bias that computes ``norm(conv(x))`` in eval mode.

    Args:
        conv: without bias.
        norm: BatchNorm2d or FrozenBatchNorm2d.
    """
    eps: Any = norm.eps
    values: dict[str, Any] = norm.state_dict()  # parameters in the one, buffers in the other
    scale = values["weight"] / (values["running_var"] + eps).sqrt()
    fused = copy.deepcopy(conv)
    fused.weight = nn.Parameter(conv.weight.detach() * scale[:, None, None, None])
    fused.bias = nn.Parameter(values["bias"] - values["running_mean"] * scale)
    return fused


def convolve_apart(conv: nn.Conv2d, *parts: Tensor) -> list[Tensor]:
    """Convolutions of parts (B, C, h, w) of channels, of any sizes, whose sum is that of the parts concatenated, which takes
    a pass over memory more, and in training three.

    Args:
        conv: of one group.
    """
    weights = conv.weight.split([part.shape[1] for part in parts], dim=1)
    biases = [*[None] * (len(parts) - 1), conv.bias]
    return [
        F.conv2d(part, weight, bias, conv.stride, conv.padding)
        for part, weight, bias in zip(parts, weights, biases, strict=True)
    ]


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalization, activation; "same" padding for odd kernels."""

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
        """What is computed first: without the normalization, or with it folded in."""
        return self.conv if self.fused is None else self.fused

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(self.convolution(x))

    def finish(self, convolved: Tensor) -> Tensor:
        """What follows the convolution."""
        if self.fused is not None:
            return self.activation(convolved)
        return normalize(self.norm, self.activation, convolved)

    def fold(self) -> None:
        """Fold the normalization into the convolution, in place; a second call does nothing."""
        if self.fused is None:
            self.fused = fuse_conv_norm(self.conv, self.norm)
            self.activation = in_place(self.activation)
            del self.conv, self.norm


class FusibleConvNorm(ConvNorm):
    """A :class:`ConvNorm` that the official codes fold as well, so that their deployed weights are of it."""

    def reparameterize(self) -> None:
        """See :meth:`fold`."""
        self.fold()


class FusionConvNorm(FusibleConvNorm):
    """A pointwise one which, of a map and one of half its resolution, does not need both in one.

    A pointwise convolution of an enlarged map is the enlarged convolution of the map, for a quarter of the work in both
    directions: with nearest neighbors, a value is the same four times.
    """

    def __init__(self, in_channels: int, out_channels: int, activation: str | None = None):
        super().__init__(in_channels, out_channels, activation=activation)

    def forward(self, x: Tensor, coarser: Tensor | None = None) -> Tensor:
        """
        Args:
            x: (B, C, h, w).
            coarser: (B, C', h / 2, w / 2), enlarged as the channels before those of ``x``; None without such.

        Returns:
            (B, out_channels, h, w).
        """
        if coarser is None:
            return super().forward(x)
        of_coarser, of_x = convolve_apart(self.convolution, coarser, x)
        return self.finish(F.interpolate(of_coarser, scale_factor=2.0, mode="nearest").add_(of_x))
