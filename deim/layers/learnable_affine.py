"""Learnable affine after normalization and ReLU, which can be fused with the normalization."""

import torch
from torch import Tensor, nn

from deim.layers.normalization import fused_normalize
from deim.layers.ops.batch_norm import Activation


class LearnableAffine(nn.Module):
    """``scale * x + bias`` with two scalars, which improves small networks with ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        # Zero-dimensional parameters do not promote half precision; in place saves a pass over memory.
        return (self.scale.squeeze() * x).add_(self.bias.squeeze())

    def fused_norm_relu(self, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
        """Compute ``self(relu(norm(x)))``, up to rounding, fused with the normalization.

        ``scale * relu(y) + bias`` equals ``scale * y + bias`` with ``bias`` as the lower bound (``scale`` > 0) or the
        upper bound. The normalization already ends with an affine map, which absorbs ``scale`` and ``bias``. The
        backward pass needs no intermediate results, which saves a third of the activation memory.

        Args:
            norm: a normalization for which :func:`deim.layers.normalization.can_fuse` returns True.
            x: (B, C, H, W).
        """
        scale, bound = self.scale.item(), self.bias.item()
        clamp = Activation(lower=bound) if scale > 0 else Activation(upper=bound)
        weight, bias = norm.weight * self.scale, norm.bias * self.scale + self.bias
        return fused_normalize(norm, x, weight, bias, clamp, bound=self.bias)
