"""Multi-layer perceptron."""

from itertools import pairwise

from torch import Tensor, nn

from deim.layers.activation import build_activation
from deim.layers.linear import Linear


class MLP(nn.Module):
    """Stack of linear layers with activations in between: (..., input_dim) -> (..., output_dim).

    Unlike detrex's MLP, which always uses ReLU, the activation is configurable; DEIM trains with SiLU.

    Args:
        input_dim, hidden_dim, output_dim: widths.
        num_layers: number of linear layers.
        activation: name of the activation; see :func:`deim.layers.build_activation`.
        zero_init: initialize the last layer, and so the output, to zero.
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
