"""Position embeddings of queries."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deim.layers import MLP, sine_embedding
from deim.structures.memory import Memory


@dataclass
class QueryPosition:
    """Position embeddings of the queries for one layer.

    Attributes:
        embedding: (B, Q, dim), added to queries and keys.
        center: (B, Q, dim) sine embedding of the center, compared with the positions of tokens; only for layers with
            conditional cross-attention.
    """

    embedding: Tensor
    center: Tensor | None = None


class PositionEmbedding(nn.Module):
    """Base class of position embeddings, computed before each layer, or once before the first layer."""

    # True if all layers use the embeddings that are computed before the first layer.
    computed_once = False

    def forward(self, index: int, queries: Tensor, boxes: Tensor, memory: Memory) -> QueryPosition:
        """Return the position embeddings for a layer.

        Args:
            index: index of the layer.
            queries: (B, Q, dim), input of the layer.
            boxes: (B, Q, 4) cxcywh, current boxes of the queries.
            memory: output of the encoder.
        """
        raise NotImplementedError


class BoxPosition(PositionEmbedding):
    """MLP on the current box of a query, so that the embedding follows the box.

    Args:
        dim: width of the queries.
        num_layers: 2 with doubled hidden width (RT-DETR, D-FINE), or 3 with equal widths (DEIM-RT-DETRv2).
        activation: activation of the MLP.
        limit: the embedding is clipped to [-limit, limit] (D-FINE: 10); None for no limit.

    Raises:
        ValueError: if ``num_layers`` is not 2 or 3.
    """

    def __init__(self, dim: int, num_layers: int = 2, activation: str = "relu", limit: float | None = None):
        super().__init__()
        if num_layers not in (2, 3):
            raise ValueError(f"num_layers must be 2 or 3, got {num_layers}")
        self.limit = limit
        self.mlp = MLP(4, 2 * dim if num_layers == 2 else dim, dim, num_layers, activation=activation)
        for linear in list(self.mlp.layers)[:2]:
            nn.init.xavier_uniform_(linear.get_parameter("weight"))

    def forward(self, index: int, queries: Tensor, boxes: Tensor, memory: Memory) -> QueryPosition:
        position = self.mlp(boxes)
        return QueryPosition(position if self.limit is None else position.clamp(-self.limit, self.limit))


class InitialBoxPosition(BoxPosition):
    """MLP on the initial box of a query, whose result all layers use (DEIMv2, arXiv 2509.20787).

    Args:
        dim, activation, limit: see :class:`BoxPosition`.
    """

    computed_once = True

    def __init__(self, dim: int, activation: str = "relu", limit: float | None = None):
        super().__init__(dim, num_layers=3, activation=activation, limit=limit)
        nn.init.xavier_uniform_(self.mlp.layers[-1].get_parameter("weight"))


class AnchorPosition(PositionEmbedding):
    """MLP on the sine embedding of the box; after the first layer scaled by a function of the query.

    DAB-DETR (arXiv 2201.12329), sections 4.2 and 4.3, with deformable cross-attention.

    Args:
        dim: width of the queries.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim
        self.box_mlp = MLP(2 * dim, dim, dim, 2)
        self.scale_mlp = MLP(dim, dim, dim, 2)
        _xavier(self)

    def forward(self, index: int, queries: Tensor, boxes: Tensor, memory: Memory) -> QueryPosition:
        if memory.valid_ratios is not None:
            # As in the official code: relative to the padded batch, while all other code is relative to the image.
            boxes = boxes * memory.valid_ratios[:, :1].repeat(1, 1, 2)
        embedding = self.box_mlp(box_sines(boxes, self.dim // 2).to(queries.dtype))
        return QueryPosition(embedding if index == 0 else embedding * self.scale_mlp(queries))


class ModulatedAnchorPosition(AnchorPosition):
    """Position embedding of DAB-DETR with modulated attention (section 4.4).

    Layers compare the sine embeddings of the center and of the tokens. The embedding of the center is scaled by a
    function of the query and modulated by the width and height of the box.
    """

    def __init__(self, dim: int):
        super().__init__(dim)
        self.size_mlp = MLP(dim, dim, 2, 2)
        _xavier(self.size_mlp)

    def forward(self, index: int, queries: Tensor, boxes: Tensor, memory: Memory) -> QueryPosition:
        sines = box_sines(boxes, self.dim // 2).to(queries.dtype)
        center = sines[..., : self.dim]
        if index > 0:
            center = center * self.scale_mlp(queries)
        # The column's sines are in the second half, the row's in the first half.
        width_scale, height_scale = (self.size_mlp(queries).sigmoid() / boxes[..., 2:]).unbind(dim=-1)
        row, column = center.chunk(2, dim=-1)
        scaled = torch.cat([row * height_scale[..., None], column * width_scale[..., None]], dim=-1)
        return QueryPosition(self.box_mlp(sines), scaled)


def box_sines(boxes: Tensor, dim: int) -> Tensor:
    """Map (B, Q, 4) cxcywh to (B, Q, 4 * dim): sine embeddings of row, column, width and height."""
    x, y, width, height = boxes.unbind(dim=-1)
    return sine_embedding(torch.stack([y, x, width, height], dim=-1), dim)


def _xavier(module: nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
