"""Feed-forward layer with a gated linear unit."""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from deim.layers.linear import Linear


class SwiGLU(nn.Module):
    """Gated feed-forward layer (arXiv 2002.05202): ``w3(silu(w1(x)) * w2(x))``.

    The initial biases are zero. The initial weights are Xavier-uniform, with ``w1`` and ``w2`` as one matrix
    (DINOv2, DEIMv2).

    Args:
        dim: width of input and output.
        hidden_dim: width of the hidden values.
    """

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.w1, self.w2, self.w3 = Linear(dim, hidden_dim), Linear(dim, hidden_dim), Linear(hidden_dim, dim)
        bound = math.sqrt(6 / (dim + 2 * hidden_dim))
        nn.init.uniform_(self.w1.weight, -bound, bound)
        nn.init.uniform_(self.w2.weight, -bound, bound)
        nn.init.xavier_uniform_(self.w3.weight)
        for linear in (self.w1, self.w2, self.w3):
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(F.silu(self.w1(x)) * self.w2(x))
