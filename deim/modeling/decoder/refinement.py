"""Refinement of the boxes of queries from layer to layer.

A refinement contains the heads of all layers. The decoder calls it once per layer::

    state = refinement.initial_state(references, memory)
    for index, layer in enumerate(layers):
        state = refinement.before_layer(state, position)
        queries = layer(queries, ..., state.references, ...)
        state, predicted = refinement(index, queries, state, predict=True)
"""

import copy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from deim.layers import MLP
from deim.modeling.decoder.position import QueryPosition
from deim.modeling.queries.heads import classification_head
from deim.structures.boxes import refine_boxes
from deim.structures.memory import Memory
from deim.structures.prediction_group import PredictionGroup
from deim.structures.predictions import Predictions


@dataclass
class RefinementState:
    """State of the refinement before a layer.

    Attributes:
        references: (B, Q, 4) cxcywh boxes or (B, Q, 2) points that the layer attends around; without gradient after the
            first layer.
    """

    references: Tensor


class Refinement(nn.Module):
    """Base class of refinements.

    Args:
        dim: width of the queries.
        num_classes: K.
        num_layers: L.
    """

    # True if the initial queries must be boxes, False if they can also be points.
    needs_boxes = False
    # True if the queries are poses instead of boxes or points; see deim.modeling.decoder.pose.
    for_keypoints = False
    # Optional fields of the predictions.
    predicted_fields: tuple[str, ...] = ()

    def __init__(self, dim: int, num_classes: int, num_layers: int):
        super().__init__()
        self.score_heads = nn.ModuleList(classification_head(dim, num_classes) for _ in range(num_layers))

    def initial_state(self, references: Tensor, memory: Memory | None = None) -> RefinementState:
        """Return the state before the first layer.

        Args:
            references: (B, Q, 4) cxcywh or (B, Q, 2) points of the initial queries.
            memory: output of the encoder, for refinements that sample its features.
        """
        return RefinementState(references)

    def before_layer(self, state: RefinementState, position: QueryPosition) -> RefinementState:
        """Return the state with the position embeddings of the next layer, if the refinement depends on them."""
        return state

    def forward(
        self, index: int, queries: Tensor, state: RefinementState, predict: bool
    ) -> tuple[RefinementState, dict[str, Predictions]]:
        """Predict from the output of a layer and update the state.

        Args:
            index: index of the layer.
            queries: (B, Q, dim), output of the layer.
            state: state before the layer.
            predict: return predictions of this layer.

        Returns:
            state for the next layer; and if ``predict``, the ``main`` predictions of this layer, in training with
            further predictions to be supervised.
        """
        raise NotImplementedError

    def keep_layers(self, count: int) -> None:
        """Keep the parts that the first ``count`` layers need for inference."""
        self.score_heads = self.score_heads[:count]


class FixedBoxes(Refinement):
    """No refinement: every layer predicts a correction to the initial references.

    Deformable DETR without iterative box refinement.

    Args:
        dim, num_classes, num_layers: see :class:`Refinement`.
        activation: activation of the box heads.
        shared_heads: all layers share one class head and one box head (Deformable DETR without refinement, DAB-DETR).
        size_bias: initial logit of width and height in the first box head (-2 in Deformable DETR, if queries start as
            points).
        logit_eps: minimum distance of references to 0 and 1 before the conversion to logits.
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
        boxes = refine_boxes(state.references, self.bbox_heads[index](queries), self.logit_eps)
        return state, {PredictionGroup.MAIN: Predictions(self.score_heads[index](queries)[None], boxes[None])}

    def keep_layers(self, count: int) -> None:
        super().keep_layers(count)
        self.bbox_heads = self.bbox_heads[:count]


@dataclass
class IterativeState(RefinementState):
    """State of iterative refinement.

    Attributes:
        base_references: same values as ``references``; the layer's predicted boxes are corrections of them. With a
            gradient if the refinement looks forward twice.
    """

    base_references: Tensor


class IterativeRefinement(FixedBoxes):
    """Refinement in which every layer corrects the boxes of the previous layer (Deformable DETR, appendix A.4).

    Args:
        dim, num_classes, num_layers, activation: see :class:`FixedBoxes`.
        look_forward_twice: the gradient of a layer's box also reaches the previous box head (DINO, section 3.5).
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

    def initial_state(self, references: Tensor, memory: Memory | None = None) -> IterativeState:
        return IterativeState(references, references)

    def forward(
        self, index: int, queries: Tensor, state: RefinementState, predict: bool
    ) -> tuple[IterativeState, dict[str, Predictions]]:
        assert isinstance(state, IterativeState)
        deltas = self.bbox_heads[index](queries)
        predicted = self._predict(index, queries, deltas, state.base_references) if predict else {}
        corrected = refine_boxes(state.references, deltas, self.logit_eps)
        next_references = corrected.detach()
        return IterativeState(next_references, corrected if self.look_forward_twice else next_references), predicted

    def _predict(self, index: int, queries: Tensor, deltas: Tensor, base_references: Tensor) -> dict[str, Predictions]:
        boxes = refine_boxes(base_references, deltas, self.logit_eps)
        return {PredictionGroup.MAIN: Predictions(self.score_heads[index](queries)[None], boxes[None])}


class NormalizedRefinement(IterativeRefinement):
    """Refinement with predictions from normalized queries (DAB-DETR).

    All layers share one LayerNorm. The boxes of the next layer are computed from the queries without normalization.
    """

    def __init__(self, dim: int, num_classes: int, num_layers: int, **options: Any):
        super().__init__(dim, num_classes, num_layers, **options)
        self.norm = nn.LayerNorm(dim)

    def _predict(self, index: int, queries: Tensor, deltas: Tensor, base_references: Tensor) -> dict[str, Predictions]:
        normalized = self.norm(queries)
        return super()._predict(index, normalized, self.bbox_heads[index](normalized), base_references)


def equal_copies(head: nn.Module, count: int) -> nn.ModuleList:
    """Return ``count`` heads with equal initial values, the first of which is ``head``."""
    return nn.ModuleList([head, *(copy.deepcopy(head) for _ in range(count - 1))])


def keep_last_head(heads: nn.ModuleList, count: int) -> nn.ModuleList:
    """Return the heads of ``count`` layers for inference, of which only the last layer predicts."""
    return nn.ModuleList([nn.Identity()] * (count - 1) + [heads[count - 1]])


def _box_head(dim: int, activation: str, size_bias: float) -> MLP:
    head = MLP(dim, dim, 4, 3, activation=activation, zero_init=True)
    nn.init.constant_(head.layers[-1].get_parameter("bias")[2:], size_bias)
    return head
