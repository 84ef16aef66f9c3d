"""Two-stage query selection: the encoder tokens with the best scores become queries.

Deformable DETR, appendix A.4 ("two-stage"); DINO (arXiv 2203.03605), section 3.4.
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deim.layers import MLP
from deim.modeling.encoder.hybrid import resize_padding
from deim.modeling.queries.initial import InitialQueries, QuerySource
from deim.structures.predictions import Predictions


@functools.lru_cache(maxsize=64)
def generate_anchors(
    spatial_shapes: tuple[tuple[int, int], ...],
    device: torch.device | str = "cpu",
    size: float = 0.05,
    eps: float = 0.01,
) -> tuple[Tensor, Tensor]:
    """One anchor box around every token of every level, in logit space.

    Args:
        spatial_shapes: (h, w) of each level, finest first.
        size: sides of the finest level's anchors, relative to the image; doubles with each level.
        eps: anchors with a coordinate outside of (eps, 1 - eps) are invalid.

    Returns:
        anchors (1, S, 4), logits of cxcywh, infinite where invalid, and the (1, S, 1) bool mask of
        valid ones. Cached: do not write to them.
    """
    levels = []
    for level, (height, width) in enumerate(spatial_shapes):
        y, x = torch.meshgrid(
            (torch.arange(height, device=device) + 0.5) / height,
            (torch.arange(width, device=device) + 0.5) / width,
            indexing="ij",
        )
        side = torch.full_like(x, size * 2.0**level)
        levels.append(torch.stack([x, y, side, side], dim=-1).flatten(0, 1))
    anchors = torch.cat(levels)[None]
    valid = ((anchors > eps) & (anchors < 1 - eps)).all(dim=-1, keepdim=True)
    return torch.where(valid, anchors.logit(), torch.inf), valid


class QuerySelection(QuerySource):
    """Scores every encoder token, takes the best ``num_queries`` and predicts a box for each.

    The next best ones are the one-to-many queries of training.

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
        self.projection = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.score_head = classification_head(dim, num_classes)
        self.bbox_head = MLP(dim, dim, 4, 3, activation=activation, zero_init=True)
        nn.init.xavier_uniform_(self.projection.weight)

    def forward(
        self, memory: Tensor, spatial_shapes: Sequence[tuple[int, int]], padding: Tensor | None = None
    ) -> InitialQueries:
        """See :class:`QuerySource`. Tokens on padding are never valid.

        Returns:
            the best tokens, without gradient; as the group ``encoder``, with gradient, what the first
            ``num_queries`` were chosen by and the boxes predicted for them.

        Raises:
            ValueError: there are fewer tokens than queries.
        """
        if memory.shape[1] < self.num_queries:
            raise ValueError(
                f"{self.num_queries} queries are to be selected from {memory.shape[1]} tokens: enlarge the "
                "input image or lower num_queries"
            )
        anchors, valid = generate_anchors(tuple(spatial_shapes), memory.device, self.anchor_size)
        if padding is not None:
            inside = [~resize_padding(padding, shape).flatten(1) for shape in spatial_shapes]
            valid = valid & torch.cat(inside, dim=1)[..., None]
            anchors = anchors.masked_fill(~valid, torch.inf)
        tokens = self.norm(self.projection(valid.to(memory.dtype) * memory))
        logits = self.score_head(tokens)
        extra = min(self.num_one_to_many, memory.shape[1] - self.num_queries) if self.training else 0
        best = logits.amax(dim=-1).topk(self.num_queries + extra, dim=1).indices[..., None]

        def take(x: Tensor) -> Tensor:
            return x.expand(len(memory), -1, -1).gather(1, best.expand(-1, -1, x.shape[-1]))

        content = take(tokens)
        references = self.bbox_head(content) + take(anchors)
        chosen = Predictions(take(logits)[None], references.sigmoid()[None])
        supervised, _ = chosen.split([self.num_queries, extra])
        return InitialQueries(content.detach(), references.detach(), extra, {"encoder": supervised})


def classification_head(dim: int, num_classes: int, prior: float = 0.01) -> nn.Linear:
    """(..., dim) -> (..., num_classes) logits that start at about the probability ``prior``
    (RetinaNet, section 4.1)."""
    head = nn.Linear(dim, num_classes)
    nn.init.constant_(head.bias, -math.log((1 - prior) / prior))
    return head
