"""Convolution followed by batch normalisation."""

import copy
from typing import Any

from torch import Tensor, nn

from deim.layers.activation import build_activation, in_place


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


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation, activation; "same" padding for odd kernels."""

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

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)) if self.fused is None else self.fused(x))

    def fold(self) -> None:
        """Fold the normalisation into the convolution, in place; a second call does nothing."""
        if self.fused is None:
            self.fused = fuse_conv_norm(self.conv, self.norm)
            self.activation = in_place(self.activation)
            del self.conv, self.norm


class FusibleConvNorm(ConvNorm):
    """A :class:`ConvNorm` that the official codes fold as well, so that their deployed weights are of it."""

    def reparameterize(self) -> None:
        """See :meth:`fold`."""
        self.fold()
