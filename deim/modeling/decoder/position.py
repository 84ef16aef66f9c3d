"""Position embeddings of queries."""

from torch import Tensor, nn

from deim.layers import MLP


class BoxPosition(nn.Module):
    """An MLP on the box that a query stands for at present, so that it moves with the box.

    Args:
        dim: of the queries.
        num_layers: 2, twice as wide inside (RT-DETR, D-FINE), or 3 of one width (DEIM-RT-DETRv2).
        activation: of the MLP.
        limit: the embedding is clipped to this on both sides (D-FINE: 10); None for no limit.

    Raises:
        ValueError: another number of layers.
    """

    def __init__(self, dim: int, num_layers: int = 2, activation: str = "relu", limit: float | None = None):
        super().__init__()
        if num_layers not in (2, 3):
            raise ValueError(f"num_layers must be 2 or 3, got {num_layers}")
        self.limit = limit
        self.mlp = MLP(4, 2 * dim if num_layers == 2 else dim, dim, num_layers, activation=activation)
        for linear in list(self.mlp.layers)[:2]:
            nn.init.xavier_uniform_(linear.get_parameter("weight"))

    def forward(self, boxes: Tensor) -> Tensor:
        """(B, Q, 4) cxcywh -> (B, Q, dim)."""
        position = self.mlp(boxes)
        return position if self.limit is None else position.clamp(-self.limit, self.limit)
