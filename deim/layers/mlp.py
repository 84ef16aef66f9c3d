"""Multi-layer perceptron."""

from itertools import pairwise

from torch import Tensor, nn

from deim.layers.activation import build_activation
from deim.layers.linear import Linear


class MLP(nn.Module):
    """``num_layers`` linear layers with an activation between them: (..., input_dim) -> (..., output_dim).

    detrex's MLP has a fixed ReLU; DEIM trains with SiLU.

    Args:
        zero_init: the last layer starts at zero, and so does the output.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        output_dim: int,
        num_layers: int,
        activation: str = "relu",
        zero_init: bool = False,
    ):
        super().__init__()
        widths = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        layers = [Linear(i, o) for i, o in pairwise(widths)]
        if zero_init:
            nn.init.zeros_(layers[-1].weight)
            nn.init.zeros_(layers[-1].bias)
        self.layers = nn.ModuleList(layers)
        self.activation = build_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)
