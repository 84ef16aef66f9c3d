"""Root mean square normalization."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """Root mean square normalization (arXiv 1910.07467) of the last dimension.

    Unlike ``torch.nn.RMSNorm``, the result is float32 for inputs of half precision if the weight is float32, as under
    autocast.

    Args:
        dim: size of the last dimension.
        eps: added to the mean square.
    """

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, None, self.eps) * self.weight

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"
