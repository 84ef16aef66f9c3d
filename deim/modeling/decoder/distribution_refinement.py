"""Fine-grained distribution refinement (FDR): boxes as edge distributions (D-FINE, arXiv 2410.13842, section 4.1)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deim.layers import MLP
from deim.modeling.decoder.refinement import Refinement, RefinementState, equal_copies, keep_last_head
from deim.structures.boxes import refine_boxes
from deim.structures.distribution import expected_offsets, offsets_to_boxes, weighting_function
from deim.structures.memory import Memory
from deim.structures.prediction_group import PredictionGroup
from deim.structures.predictions import EdgeDistributions, Predictions


class LocationQualityEstimator(nn.Module):
    """Correction of class logits by the sharpness of the four edge distributions (LQE; statistics of GFLv2)."""

    def __init__(self, top_k: int = 4, hidden_dim: int = 64, num_layers: int = 2, activation: str = "relu"):
        super().__init__()
        self.top_k = top_k
        self.reg_conf = MLP(4 * (top_k + 1), hidden_dim, 1, num_layers, activation=activation, zero_init=True)

    def forward(self, logits: Tensor, corners: Tensor) -> Tensor:
        """Map (..., K) class logits and (..., 4, reg_max + 1) corner logits to (..., K) logits."""
        highest = corners.softmax(dim=-1).topk(self.top_k, dim=-1).values
        statistics = torch.cat([highest, highest.mean(dim=-1, keepdim=True)], dim=-1)
        return logits + self.reg_conf(statistics.flatten(-2).to(logits.dtype))


@dataclass
class DistributionState(RefinementState):
    """``references``, and the state that the next layer's distributions are added to.

    Attributes:
        bin_values: (reg_max + 1,).
        initial_boxes: (B, Q, 4) cxcywh, the boxes that the distributions refine, without gradient.
        corners: (B, Q, 4, reg_max + 1) logits of the previous layer; () zero before the first layer.
        queries: (B, Q, dim) of the previous layer, without gradient; () zero before the first layer.
    """

    bin_values: Tensor
    initial_boxes: Tensor
    corners: Tensor
    queries: Tensor


class DistributionRefinement(Refinement):
    """Refinement of edge distributions: a plain head predicts boxes after the first layer, every layer refines them.

    Args:
        dim, num_classes, num_layers: see :class:`Refinement`.
        activation: activation of the box heads and of the location quality estimators.
        reg_max, up, reg_scale: see :func:`deim.structures.distribution.weighting_function`.
        equal_heads: initialize the class and corner heads of all layers to the same values (DEIMv2).
        shared_corner_head: all layers share one corner head (DEIMv2 Atto, Femto and Pico).
    """

    needs_boxes = True

    def __init__(
        self,
        dim: int,
        num_classes: int,
        num_layers: int,
        activation: str = "relu",
        reg_max: int = 32,
        up: float = 0.5,
        reg_scale: float = 4.0,
        equal_heads: bool = False,
        shared_corner_head: bool = False,
    ):
        super().__init__(dim, num_classes, num_layers)
        self.reg_max = reg_max
        # Never trained, but parameters because published checkpoints contain them.
        self.up = nn.Parameter(torch.tensor([up]), requires_grad=False)
        self.reg_scale = nn.Parameter(torch.tensor([reg_scale]), requires_grad=False)
        weighting_function(reg_max, self.up, self.reg_scale)  # raises for an invalid reg_max
        self.corner_heads = nn.ModuleList(
            MLP(dim, dim, 4 * (reg_max + 1), 3, activation=activation, zero_init=True) for _ in range(num_layers)
        )
        if equal_heads:
            self.score_heads = equal_copies(self.score_heads[0], num_layers)
            self.corner_heads = equal_copies(self.corner_heads[0], num_layers)
        if shared_corner_head:
            self.corner_heads = nn.ModuleList([self.corner_heads[0]] * num_layers)
        self.quality_heads = nn.ModuleList(LocationQualityEstimator(activation=activation) for _ in range(num_layers))
        self.initial_bbox_head = MLP(dim, dim, 4, 3, activation=activation, zero_init=True)

    def initial_state(self, references: Tensor, memory: Memory | None = None) -> DistributionState:
        bin_values = weighting_function(self.reg_max, self.up, self.reg_scale)
        zero = references.new_zeros(())
        return DistributionState(references, bin_values, references, zero, zero)

    def forward(
        self, index: int, queries: Tensor, state: RefinementState, predict: bool
    ) -> tuple[DistributionState, dict[str, Predictions]]:
        """Predict and update the state; see :class:`Refinement`. In training, the plain head's boxes are ``initial``."""
        assert isinstance(state, DistributionState)
        predicted: dict[str, Predictions] = {}
        initial_boxes = state.initial_boxes
        if index == 0:
            head_boxes = refine_boxes(state.references, self.initial_bbox_head(queries))
            initial_boxes = head_boxes.detach()
            if self.training:
                predicted[PredictionGroup.INITIAL] = Predictions(self.score_heads[0](queries)[None], head_boxes[None])
        update = self.corner_heads[index](queries + state.queries)
        corners = state.corners + update.unflatten(-1, (4, self.reg_max + 1))
        boxes = offsets_to_boxes(initial_boxes, expected_offsets(corners, state.bin_values), self.reg_scale)
        if predict:
            logits = self.quality_heads[index](self.score_heads[index](queries), corners)
            edges = EdgeDistributions(corners[None], initial_boxes, state.bin_values, self.reg_scale)
            predicted[PredictionGroup.MAIN] = Predictions(logits[None], boxes[None], edges)
        return DistributionState(boxes.detach(), state.bin_values, initial_boxes, corners, queries.detach()), predicted

    def keep_layers(self, count: int) -> None:
        """Keep the heads of the first ``count`` layers; only the last of them predicts, so only it keeps its class
        and quality heads."""
        self.corner_heads = self.corner_heads[:count]
        self.score_heads = keep_last_head(self.score_heads, count)
        self.quality_heads = keep_last_head(self.quality_heads, count)
