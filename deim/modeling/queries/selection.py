"""Two-stage query selection: the encoder tokens with the best scores become queries.

DINO (arXiv 2203.03605), section 3.4; RT-DETR (arXiv 2304.08069), section 4.3.
"""

import torch
from torch import Tensor, nn

from deim.layers import MLP, Linear
from deim.layers.autocast import autocast_without_cache
from deim.modeling.queries.anchors import generate_anchors, unpadded_anchors
from deim.modeling.queries.heads import classification_head
from deim.modeling.queries.initial import InitialQueries, QuerySource
from deim.structures.memory import Memory
from deim.structures.prediction_group import PredictionGroup
from deim.structures.predictions import Predictions


class TwoStageSource(QuerySource):
    """Base class of sources that score every encoder token and predict boxes from the best tokens.

    In training, the best tokens after the first ``num_queries`` are the one-to-many queries.

    Args:
        dim: width of the queries.
        num_classes: K.
        num_queries, num_one_to_many: see :class:`QuerySource`.
        activation: activation of the box head.
        anchor_size: side of the anchor boxes on the finest map, relative to the image; doubled on each coarser map.
            Anchors with sides of 0.99 or more are invalid. A model trained from random weights converges faster if this is the size of the objects.
        project: project and normalize the tokens before they are scored. DEIMv2 does not.

    Raises:
        ValueError: if ``anchor_size`` is not between 0 and 1.
    """

    # True if each logit of the score head belongs to a class.
    has_class_scores = True
    # False if the source predicts something else than boxes from the best tokens.
    has_box_head = True

    def __init__(
        self,
        dim: int,
        num_classes: int,
        num_queries: int,
        activation: str = "relu",
        num_one_to_many: int = 0,
        anchor_size: float = 0.05,
        project: bool = True,
    ):
        super().__init__(num_queries, num_one_to_many)
        if not 0 < anchor_size < 1:
            raise ValueError(f"anchor_size must be between 0 and 1, got {anchor_size}")
        self.anchor_size = anchor_size
        self.projection = Linear(dim, dim) if project else nn.Identity()
        self.norm = nn.LayerNorm(dim) if project else nn.Identity()
        self.score_head = classification_head(dim, num_classes)
        if self.has_box_head:
            self.bbox_head = MLP(dim, dim, 4, 3, activation=activation, zero_init=True)
        if isinstance(self.projection, nn.Linear):
            nn.init.xavier_uniform_(self.projection.weight)

    def candidates(self, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """Return the tokens that can become queries, their anchors and the mask of valid tokens.

        Returns:
            tokens (B, S, dim), anchors (1 or B, S, 4) as logits, and the mask (1 or B, S, 1); tokens on padding are
            invalid.

        Raises:
            ValueError: if there are fewer tokens than queries.
        """
        count = memory.tokens.shape[1]
        if count < self.num_queries:
            raise ValueError(
                f"{self.num_queries} queries are to be selected from {count} tokens: enlarge the "
                "input image or lower num_queries"
            )
        return memory.tokens, *generate_anchors(memory, self.anchor_size)

    def score(self, tokens: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return query content (B, N, dim) and logits (B, N, K) of tokens (B, N, dim) with a mask of valid tokens."""
        content = self.norm(self.projection(valid.to(tokens.dtype) * tokens))
        return content, self.score_head(content)

    def anchors(self, spatial_shapes: tuple[tuple[int, int], ...]) -> tuple[Tensor, Tensor]:
        """Return anchors (1, S, 4), as logits, and the mask (1, S, 1) for unpadded maps with these (height, width)."""
        return unpadded_anchors(spatial_shapes, torch.device("cpu"), self.anchor_size)

    def top_indices(self, scores: Tensor) -> Tensor:
        """Return the (B, N, 1) indices of the best of (B, S) scores, best first; N includes one-to-many queries."""
        return scores.topk(min(self.num_active_queries, scores.shape[1]), dim=1).indices[..., None]


class QuerySelection(TwoStageSource):
    """Query source with the best tokens as content; boxes are predicted only for these tokens (RT-DETR, D-FINE)."""

    def forward(self, memory: Memory) -> InitialQueries:
        """Select the queries; see :class:`TwoStageSource`.

        Returns:
            queries without gradient; and as the group ``encoder``, with gradient, the selection logits and predicted
            boxes of the first ``num_queries``.
        """
        tokens, anchors, valid = self.candidates(memory)
        top_indices = self.select_top(tokens, valid)
        content, logits = self.score(gather_tokens(tokens, top_indices), gather_tokens(valid, top_indices))
        references = self.bbox_head(content) + gather_tokens(anchors, top_indices)
        chosen = Predictions(logits[None], references.sigmoid()[None])
        num_one_to_many = content.shape[1] - self.num_queries
        supervised, _ = chosen.split([self.num_queries, num_one_to_many])
        return InitialQueries(
            content.detach(), references.detach(), num_one_to_many, {PredictionGroup.ENCODER: supervised}
        )

    @torch.no_grad()
    def select_top(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Return the (B, N, 1) indices of the best tokens.

        Scores are computed here without gradients; the caller recomputes those of the selected tokens with gradients.
        This is cheaper because only one token in thirty of a large image is selected.
        """
        with autocast_without_cache(
            tokens.device.type
        ):  # up to torch 2.9, autocast would cache these weights without gradients
            _, logits = self.score(tokens, valid)
        return self.top_indices(logits.amax(dim=-1))


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Select rows of (1 or B, S, C) at the indices (B, N, 1) -> (B, N, C)."""
    return x.expand(index.shape[0], -1, -1).gather(1, index.expand(-1, -1, x.shape[-1]))
