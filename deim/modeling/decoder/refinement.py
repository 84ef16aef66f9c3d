"""How the boxes of queries change from layer to layer.

A refinement holds the heads of all layers. The decoder asks it once a layer::

    state = refinement.start(references)
    for index, layer in enumerate(layers):
        queries = layer(queries, ..., state.references, ...)
        state, predicted = refinement(index, queries, state, predict=True)
"""

from dataclasses import dataclass

from torch import Tensor, nn

from deim.layers import MLP
from deim.modeling.queries.denoising import box_logits
from deim.modeling.queries.selection import classification_head
from deim.structures.predictions import Predictions


@dataclass
class RefinementState:
    """Where refinement stands before a layer.

    Attributes:
        references: (B, Q, 4) cxcywh, the boxes around which the layer looks; after the first layer
            without gradient.
    """

    references: Tensor


class Refinement(nn.Module):
    """Base of the kinds of refinement.

    Args:
        dim: of the queries.
        num_classes: K.
        num_layers: L.
    """

    def __init__(self, dim: int, num_classes: int, num_layers: int):
        super().__init__()
        self.score_heads = nn.ModuleList(classification_head(dim, num_classes) for _ in range(num_layers))

    def start(self, references: Tensor) -> RefinementState:
        """The state before the first layer.

        Args:
            references: (B, Q, 4) cxcywh of the initial queries.
        """
        return RefinementState(references)

    def forward(
        self, index: int, queries: Tensor, state: RefinementState, predict: bool
    ) -> tuple[RefinementState, dict[str, Predictions]]:
        """
        Args:
            index: of the layer.
            queries: (B, Q, dim) that come out of it.
            predict: whether this layer's predictions are wanted.

        Returns:
            the state for the next layer; and, if wanted, ``main`` predictions of one layer, in
            training with whatever else is to be supervised.
        """
        raise NotImplementedError

    def keep_layers(self, count: int) -> None:
        """Drop what layers beyond the first ``count`` need, and what only training needs of these."""
        self.score_heads = self.score_heads[:count]


class FixedBoxes(Refinement):
    """No refinement: every layer corrects the initial references anew (Deformable DETR without
    iterative box refinement)."""

    def __init__(self, dim: int, num_classes: int, num_layers: int, activation: str = "relu"):
        super().__init__(dim, num_classes, num_layers)
        self.bbox_heads = nn.ModuleList(_box_head(dim, activation) for _ in range(num_layers))

    def forward(
        self, index: int, queries: Tensor, state: RefinementState, predict: bool
    ) -> tuple[RefinementState, dict[str, Predictions]]:
        if not predict:
            return state, {}
        boxes = (self.bbox_heads[index](queries) + box_logits(state.references)).sigmoid()
        return state, {"main": Predictions(self.score_heads[index](queries)[None], boxes[None])}

    def keep_layers(self, count: int) -> None:
        super().keep_layers(count)
        self.bbox_heads = self.bbox_heads[:count]


@dataclass
class IterativeState(RefinementState):
    """Beside ``references``, ``start``: the same boxes where corrections begin, with gradient if the
    refinement looks forward twice."""

    start: Tensor


class IterativeRefinement(FixedBoxes):
    """Every layer corrects the boxes of the layer before (Deformable DETR, appendix A.4).

    Args:
        look_forward_twice: the gradient of a layer's box also reaches the box head before it (DINO,
            section 3.5).
    """

    def __init__(
        self, dim: int, num_classes: int, num_layers: int, activation: str = "relu", look_forward_twice: bool = True
    ):
        super().__init__(dim, num_classes, num_layers, activation)
        self.look_forward_twice = look_forward_twice

    def start(self, references: Tensor) -> IterativeState:
        return IterativeState(references, references)

    def forward(
        self, index: int, queries: Tensor, state: RefinementState, predict: bool
    ) -> tuple[IterativeState, dict[str, Predictions]]:
        assert isinstance(state, IterativeState)
        correction = self.bbox_heads[index](queries)
        predicted = {}
        if predict:
            boxes = (correction + box_logits(state.start)).sigmoid()
            predicted["main"] = Predictions(self.score_heads[index](queries)[None], boxes[None])
        corrected = (correction + box_logits(state.references)).sigmoid()
        following = corrected.detach()
        return IterativeState(following, corrected if self.look_forward_twice else following), predicted


def _box_head(dim: int, activation: str) -> MLP:
    return MLP(dim, dim, 4, 3, activation=activation, zero_init=True)
