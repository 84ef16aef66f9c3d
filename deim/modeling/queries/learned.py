"""Learned queries, which are the same for every image."""

import torch
from torch import Tensor, nn

from deim.layers import Linear
from deim.modeling.queries.initial import InitialQueries, QuerySource
from deim.structures.memory import Memory


class LearnedQueries(QuerySource):
    """Learned embeddings of the content and box of each query.

    DAB-DETR, arXiv 2201.12329, section 4.1, with content as in Deformable DETR. Initial centers are spread over the
    image; initial sides are half of the image's.
    """

    def __init__(self, dim: int, num_queries: int, num_one_to_many: int = 0):
        super().__init__(num_queries, num_one_to_many)
        self.content = nn.Embedding(num_queries + num_one_to_many, dim)
        self.references = nn.Embedding(num_queries + num_one_to_many, 4)
        nn.init.zeros_(self.references.weight)
        centers = self.references.weight.data[:, :2].uniform_(0, 1)
        centers.copy_(centers.logit(eps=1e-3))

    def forward(self, memory: Memory) -> InitialQueries:
        """Return the queries; see :class:`QuerySource`. ``memory`` determines the number of images and the dtype."""
        tokens = memory.tokens
        return InitialQueries(
            _expand_to_batch(self.content.weight[: self.num_active_queries], tokens).to(tokens.dtype),
            _expand_to_batch(self.references.weight[: self.num_active_queries], tokens),
            self.num_active_queries - self.num_queries,
        )

    def remove_training_parts(self) -> None:
        """Remove the queries that are only used in training."""
        self.remove_one_to_many("content", "references")


class LearnedPoints(QuerySource):
    """Learned embeddings of the content and position of each query.

    The position determines the reference point (Deformable DETR, arXiv 2010.04159, section 4.1).
    """

    provides_boxes = False
    provides_positions = True

    def __init__(self, dim: int, num_queries: int, num_one_to_many: int = 0):
        super().__init__(num_queries, num_one_to_many)
        self.content = nn.Embedding(num_queries + num_one_to_many, dim)
        self.position = nn.Embedding(num_queries + num_one_to_many, dim)
        self.reference_points = Linear(dim, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, memory: Memory) -> InitialQueries:
        """Return the queries; see :class:`QuerySource`. ``memory`` determines the number of images and the dtype."""
        tokens = memory.tokens
        position = self.position.weight[: self.num_active_queries]
        return InitialQueries(
            _expand_to_batch(self.content.weight[: self.num_active_queries], tokens).to(tokens.dtype),
            _expand_to_batch(self.reference_points(position), tokens),
            self.num_active_queries - self.num_queries,
            position=_expand_to_batch(position, tokens).to(tokens.dtype),
        )

    def remove_training_parts(self) -> None:
        """Remove the queries that are only used in training."""
        self.remove_one_to_many("content", "position")


class LearnedAnchors(QuerySource):
    """Learned anchor box for each query (DAB-DETR, section 4.1).

    The last channel of the content is reserved for the indicator of denoising queries (DN-DETR, arXiv 2203.01305,
    section 4.3).

    Args:
        dim: width of the queries.
        num_queries, num_one_to_many: number of anchors; see :class:`QuerySource`.
        num_patterns: number of learned patterns. Each of the ``num_queries`` anchors is used once with each pattern
            (Anchor DETR, arXiv 2109.07107, section 3.3), so ``num_queries * num_patterns`` queries are matched
            one-to-one; 0 uses each anchor once without a pattern.
        shared_content: all queries share one content (DN-DETR) instead of one per query (DN-DAB-Deformable-DETR).
    """

    def __init__(
        self,
        dim: int,
        num_queries: int,
        num_one_to_many: int = 0,
        num_patterns: int = 0,
        shared_content: bool = True,
    ):
        super().__init__(num_queries, num_one_to_many)
        self.shared_content = shared_content
        self.anchors = nn.Embedding(num_queries + num_one_to_many, 4)
        self.content = nn.Embedding(1 if shared_content else num_queries + num_one_to_many, dim - 1)
        self.patterns = nn.Embedding(num_patterns, dim) if num_patterns else None

    def forward(self, memory: Memory) -> InitialQueries:
        """Return the queries; see :class:`QuerySource`. ``memory`` determines the number of images and the dtype."""
        anchors, content = (
            self.anchors.weight[: self.num_active_queries],
            self.content.weight[: self.num_active_queries],
        )
        content = nn.functional.pad(content, (0, 1)).expand(self.num_active_queries, -1)
        if self.patterns is not None:
            one_to_one, one_to_many = content.tensor_split([self.num_queries])
            patterned = (self.patterns.weight[:, None] + one_to_one).flatten(0, 1)
            content = torch.cat([patterned, one_to_many])
            num_patterns = self.patterns.num_embeddings
            anchors = torch.cat([anchors[: self.num_queries].repeat(num_patterns, 1), anchors[self.num_queries :]])
        tokens = memory.tokens
        return InitialQueries(
            _expand_to_batch(content, tokens).to(tokens.dtype),
            _expand_to_batch(anchors, tokens),
            self.num_active_queries - self.num_queries,
        )

    def remove_training_parts(self) -> None:
        """Remove the queries that are only used in training."""
        self.remove_one_to_many("anchors", *([] if self.shared_content else ["content"]))


def _expand_to_batch(rows: Tensor, tokens: Tensor) -> Tensor:
    """Expand (Q, C) to (B, Q, C) for the images of ``tokens``."""
    return rows.expand(tokens.shape[0], -1, -1)
