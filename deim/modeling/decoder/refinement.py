"""How the boxes of queries change from layer to layer.

A refinement holds the heads of all layers. The decoder asks it once a layer::

    state = refinement.start(references)
    for index, layer in enumerate(layers):
        queries = layer(queries, ..., state.references, ...)
        state, predicted = refinement(index, queries, state, predict=True)
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from deim.layers import MLP
from deim.modeling.queries.heads import classification_head
from deim.structures.boxes import correct_boxes
from deim.structures.predictions import Predictions


@dataclass
class RefinementState:
    """Where refinement stands before a layer.

    Attributes:
        references: (B, Q, 4) cxcywh, the boxes around which the layer looks, or (B, Q, 2) points; after the
            first layer without gradient.
    """

    references: Tensor


class Refinement(nn.Module):
    """Base of the kinds of refinement.

    Args:
        dim: of the queries.
        num_classes: K.
        num_layers: L.
    """

    # Whether queries must begin as boxes, or may as points.
    needs_boxes = False

    def __init__(self, dim: int, num_classes: int, num_layers: int):
        super().__init__()
        self.score_heads = nn.ModuleList(classification_head(dim, num_classes) for _ in range(num_layers))

    def start(self, references: Tensor) -> RefinementState:
        """The state before the first layer.

        Args:
            references: (B, Q, 4) cxcywh of the initial queries, or (B, Q, 2) points.
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
    iterative box refinement).

    Args:
        activation: of the box heads.
        shared_heads: all layers have the same heads (Deformable DETR without refinement, DAB-DETR).
        size_bias: the first box head begins with this as the logit of width and height (Deformable DETR
            where queries begin as points: -2).
        logit_eps: references are kept so far away from 0 and 1 when they are corrected.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        num_layers: int,
        activation: str = "relu",
        shared_heads: bool = False,
        size_bias: float = 0.0,
        logit_eps: float = 1e-5,
    ):
        super().__init__(dim, num_classes, num_layers)
        self.logit_eps = logit_eps
        biases = [size_bias] + [0.0] * (num_layers - 1)
        self.bbox_heads = nn.ModuleList(_box_head(dim, activation, bias) for bias in biases)
        if shared_heads:
            self.score_heads = nn.ModuleList([self.score_heads[0]] * num_layers)
            self.bbox_heads = nn.ModuleList([self.bbox_heads[0]] * num_layers)

    def forward(
        self, index: int, queries: Tensor, state: RefinementState, predict: bool
    ) -> tuple[RefinementState, dict[str, Predictions]]:
        if not predict:
            return state, {}
        boxes = correct_boxes(state.references, self.bbox_heads[index](queries), self.logit_eps)
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
        options: see :class:`FixedBoxes`.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        num_layers: int,
        activation: str = "relu",
        look_forward_twice: bool = True,
        **options: Any,
    ):
        super().__init__(dim, num_classes, num_layers, activation, **options)
        self.look_forward_twice = look_forward_twice

    def start(self, references: Tensor) -> IterativeState:
        return IterativeState(references, references)

    def forward(
        self, index: int, queries: Tensor, state: RefinementState, predict: bool
    ) -> tuple[IterativeState, dict[str, Predictions]]:
        assert isinstance(state, IterativeState)
        correction = self.bbox_heads[index](queries)
        predicted = self._predict(index, queries, correction, state.start) if predict else {}
        corrected = correct_boxes(state.references, correction, self.logit_eps)
        following = corrected.detach()
        return IterativeState(following, corrected if self.look_forward_twice else following), predicted

    def _predict(self, index: int, queries: Tensor, correction: Tensor, start: Tensor) -> dict[str, Predictions]:
        boxes = correct_boxes(start, correction, self.logit_eps)
        return {"main": Predictions(self.score_heads[index](queries)[None], boxes[None])}


class NormalizedRefinement(IterativeRefinement):
    """Predictions are read from normalized queries, by one LayerNorm for all layers; the boxes of the
    next layer from the queries as they are (DAB-DETR)."""

    def __init__(self, dim: int, num_classes: int, num_layers: int, **options: Any):
        super().__init__(dim, num_classes, num_layers, **options)
        self.norm = nn.LayerNorm(dim)

    def _predict(self, index: int, queries: Tensor, correction: Tensor, start: Tensor) -> dict[str, Predictions]:
        normalized = self.norm(queries)
        return super()._predict(index, normalized, self.bbox_heads[index](normalized), start)


def _box_head(dim: int, activation: str, size_bias: float) -> MLP:
    head = MLP(dim, dim, 4, 3, activation=activation, zero_init=True)
    nn.init.constant_(head.layers[-1].get_parameter("bias")[2:], size_bias)
    return head
