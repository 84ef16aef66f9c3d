"""Linear layer that is fast on all CPUs."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deim.layers.tracing import is_tracing

# For narrower layers, the overhead of a convolution exceeds its gain.
_MIN_FEATURES = 64


class Linear(nn.Linear):
    """``torch.nn.Linear``; on the CPU, wide float32 layers are computed as 1 x 1 convolutions.

    Convolutions use oneDNN, which is fast on all processors. Linear layers use torch's BLAS (MKL in the official
    wheels), which is half as fast on non-Intel processors (``docs/benchmarks.md``).
    """

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``torch.nn.functional.linear`` as :class:`Linear` does."""
    # Traced graphs should contain a linear layer, not a convolution.
    if is_tracing() or not _uses_onednn(x, weight):
        return F.linear(x, weight, bias)
    pixels = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
    computed = F.conv2d(pixels, weight[:, :, None, None], bias)
    return computed.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


def _uses_onednn(x: Tensor, weight: Tensor) -> bool:
    is_wide = min(weight.shape) >= _MIN_FEATURES
    return (
        is_wide
        and x.numel() > 0
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
    )
