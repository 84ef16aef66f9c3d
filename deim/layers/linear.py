"""A linear layer that is as fast as the CPU allows."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deim.layers.tracing import is_traced

# Narrower layers are computed sooner than a convolution is prepared.
_SMALLEST = 64


class Linear(nn.Linear):
    """``torch.nn.Linear``; on the CPU, wide layers in single precision are computed as 1 x 1 convolutions.

    Those are oneDNN's, which multiplies matrices on any processor as fast as it can. For linear layers torch asks its
    BLAS, which for the wheels is MKL: on processors not of Intel's that is half as fast (``docs/benchmarks.md``).
    """

    def forward(self, x: Tensor) -> Tensor:
        # in a graph a linear layer should be seen as one
        if is_traced() or not self._by_onednn(x):
            return super().forward(x)
        pixels = x.reshape(1, 1, -1, self.in_features).permute(0, 3, 1, 2)
        computed = F.conv2d(pixels, self.weight[:, :, None, None], self.bias)
        return computed.permute(0, 2, 3, 1).reshape(*x.shape[:-1], self.out_features)

    def _by_onednn(self, x: Tensor) -> bool:
        wide = min(self.in_features, self.out_features) >= _SMALLEST and x.numel() > 0
        return wide and x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available()
