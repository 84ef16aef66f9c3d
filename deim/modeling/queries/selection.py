"""Two-stage query selection: the encoder tokens with the best scores become queries.

DINO (arXiv 2203.03605), section 3.4; RT-DETR (arXiv 2304.08069), section 4.3.
"""

import torch
from torch import Tensor, nn

from deim.layers import MLP, Linear
from deim.layers.casting import casting_anew
from deim.modeling.queries.anchors import anchors_of_whole_maps, generate_anchors
from deim.modeling.queries.heads import classification_head
from deim.modeling.queries.initial import InitialQueries, QuerySource
from deim.structures.memory import Memory
from deim.structures.predictions import Predictions


class TwoStageSource(QuerySource):
    """Base of sources that score every encoder token and predict boxes from the best ones.

    The next best ones after the first ``num_queries`` are the one-to-many queries of training.

    Args:
        dim: of the queries.
        num_classes: K.
        activation: of the box head.
        anchor_size: the boxes that are corrected begin with this side, relative to the image, on the finest
            map, and with twice the size on each coarser one. A model that learns from random weights begins
            sooner if it is that of the data's objects.

    Raises:
        ValueError: ``anchor_size`` is not between 0 and 1.
    """

    scores_are_of_classes = True

    def __init__(
        self,
        dim: int,
        num_classes: int,
        num_queries: int,
        activation: str = "relu",
        num_one_to_many: int = 0,
        anchor_size: float = 0.05,
    ):
        super().__init__(num_queries, num_one_to_many)
        if not 0 < anchor_size < 1:
            raise ValueError(f"anchor_size must be between 0 and 1, got {anchor_size}")
        self.anchor_size = anchor_size
        self.projection = Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.score_head = classification_head(dim, num_classes)
        self.bbox_head = MLP(dim, dim, 4, 3, activation=activation, zero_init=True)
        nn.init.xavier_uniform_(self.projection.weight)

    def candidates(self, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, S, dim), anchors (1 or B, S, 4), as logits, and which of them are valid (1 or B, S, 1): all that
        may become queries; tokens on padding are never valid.

        Raises:
            ValueError: there are fewer tokens than queries.
        """
        count = memory.tokens.shape[1]
        if count < self.num_queries:
            raise ValueError(
                f"{self.num_queries} queries are to be selected from {count} tokens: enlarge the "
                "input image or lower num_queries"
            )
        return memory.tokens, *generate_anchors(memory, self.anchor_size)

    def score(self, tokens: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Candidates (B, N, dim), which of them are valid -> the content of queries (B, N, dim), logits (B, N, K)."""
        content = self.norm(self.projection(valid.to(tokens.dtype) * tokens))
        return content, self.score_head(content)

    def anchors(self, spatial_shapes: tuple[tuple[int, int], ...]) -> tuple[Tensor, Tensor]:
        """The anchors of unpadded maps of these (height, width): (1, S, 4) logits, and which are valid (1, S, 1)."""
        return anchors_of_whole_maps(spatial_shapes, torch.device("cpu"), self.anchor_size)

    def best(self, scores: Tensor) -> Tensor:
        """(B, S) -> (B, N, 1) indices of the best, best first; N includes the one-to-many queries."""
        return scores.topk(min(self.total, scores.shape[1]), dim=1).indices[..., None]


class QuerySelection(TwoStageSource):
    """The best tokens are the content of the queries, and boxes are predicted for them alone (RT-DETR, D-FINE)."""

    def forward(self, memory: Memory) -> InitialQueries:
        """See :class:`TwoStageSource`.

        Returns:
            the best tokens, without gradient; as the group ``encoder``, with gradient, what the first
            ``num_queries`` were chosen by and the boxes predicted for them.
        """
        tokens, anchors, valid = self.candidates(memory)
        best = self._choose(tokens, valid)
        content, logits = self.score(take(tokens, best), take(valid, best))
        references = self.bbox_head(content) + take(anchors, best)
        chosen = Predictions(logits[None], references.sigmoid()[None])
        extra = content.shape[1] - self.num_queries
        supervised, _ = chosen.split([self.num_queries, extra])
        return InitialQueries(content.detach(), references.detach(), extra, {"encoder": supervised})

    @torch.no_grad()
    def _choose(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """(B, N, 1) indices of the best tokens.

        Those are scored once more, with gradients, which all others do without: a token in thirty is chosen of a
        large image's.
        """
        with casting_anew(tokens.device.type):  # up to torch 2.9, weights cast here would be kept without gradients
            _, logits = self.score(tokens, valid)
        return self.best(logits.amax(dim=-1))


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows of (1 or B, S, C) at (B, N, 1) -> (B, N, C)."""
    return x.expand(index.shape[0], -1, -1).gather(1, index.expand(-1, -1, x.shape[-1]))
