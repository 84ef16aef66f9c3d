"""A learnable affine after normalization and ReLU, which normalization in one step does as well."""

import torch
from torch import Tensor, nn

from deim.layers.normalization import normalize_in_one_step
from deim.layers.ops.batch_norm import Activation


class LearnableAffine(nn.Module):
    """``scale * x + bias`` with two scalars; lets small networks use a ReLU better."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        # Without dimensions, parameters leave half precision as it is; in place: a pass over memory less.
        return (self.scale.squeeze() * x).add_(self.bias.squeeze())

    def of_rectified(self, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
        """``self(relu(norm(x)))`` to rounding, in one step with the normalization.

        ``scale * relu(y) + bias`` is ``scale * y + bias``, held on the side of ``bias`` that the sign of ``scale`` says; and a
        normalization ends in an affine map already. Its gradients need nothing but what it returns, so that a third of
        the activations are not kept.

        Args:
            norm: one that :func:`deim.layers.normalization.in_one_step` is true of.
            x: (B, C, H, W).
        """
        scale, bound = self.scale.item(), self.bias.item()
        held = Activation(lower=bound) if scale > 0 else Activation(upper=bound)
        weight, bias = norm.weight * self.scale, norm.bias * self.scale + self.bias
        return normalize_in_one_step(norm, x, weight, bias, held, bound=self.bias)
