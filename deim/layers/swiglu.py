"""Feed-forward layer with a gated linear unit."""

from torch import Tensor, nn
from torch.nn import functional as F

from deim.layers.linear import Linear


class SwiGLU(nn.Module):
    """Gated feed-forward layer (arXiv 2002.05202): ``w3(silu(w1(x)) * w2(x))``.

    Args:
        dim: width of input and output.
        hidden_dim: width of the hidden values.
    """

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.w1, self.w2, self.w3 = Linear(dim, hidden_dim), Linear(dim, hidden_dim), Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(F.silu(self.w1(x)) * self.w2(x))
