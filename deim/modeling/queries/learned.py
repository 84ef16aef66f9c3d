"""Learned queries: the same for every image."""

import torch
from torch import Tensor, nn

from deim.layers import Linear
from deim.modeling.queries.initial import InitialQueries, QuerySource
from deim.structures.memory import Memory


class LearnedQueries(QuerySource):
    """Embeddings of content and of a box for each query (DAB-DETR, arXiv 2201.12329, section 4.1, with
    content as in Deformable DETR).

    Boxes start anywhere in the image, half of its sides large.
    """

    def __init__(self, dim: int, num_queries: int, num_one_to_many: int = 0):
        super().__init__(num_queries, num_one_to_many)
        self.content = nn.Embedding(num_queries + num_one_to_many, dim)
        self.references = nn.Embedding(num_queries + num_one_to_many, 4)
        nn.init.zeros_(self.references.weight)
        centers = self.references.weight.data[:, :2].uniform_(0, 1)
        centers.copy_(centers.logit(eps=1e-3))

    def forward(self, memory: Memory) -> InitialQueries:
        """See :class:`QuerySource`; of ``memory`` only the number of images counts."""
        tokens = memory.tokens
        return InitialQueries(
            _for_batch(self.content.weight[: self.total], tokens).to(tokens.dtype),
            _for_batch(self.references.weight[: self.total], tokens),
            self.total - self.num_queries,
        )

    def reparameterize(self) -> None:
        """Drop the queries that are only trained with."""
        self.forget_one_to_many("content", "references")


class LearnedPoints(QuerySource):
    """Embeddings of content and of position for each query; the position says around which point it
    begins to look (Deformable DETR, arXiv 2010.04159, section 4.1)."""

    gives_boxes = False
    gives_positions = True

    def __init__(self, dim: int, num_queries: int, num_one_to_many: int = 0):
        super().__init__(num_queries, num_one_to_many)
        self.content = nn.Embedding(num_queries + num_one_to_many, dim)
        self.position = nn.Embedding(num_queries + num_one_to_many, dim)
        self.reference_points = Linear(dim, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, memory: Memory) -> InitialQueries:
        """See :class:`QuerySource`; of ``memory`` only the number of images counts."""
        tokens = memory.tokens
        position = self.position.weight[: self.total]
        return InitialQueries(
            _for_batch(self.content.weight[: self.total], tokens).to(tokens.dtype),
            _for_batch(self.reference_points(position), tokens),
            self.total - self.num_queries,
            position=_for_batch(position, tokens).to(tokens.dtype),
        )

    def reparameterize(self) -> None:
        """Drop the queries that are only trained with."""
        self.forget_one_to_many("content", "position")


class LearnedAnchors(QuerySource):
    """An anchor box for each query (DAB-DETR, section 4.1), whose content leaves the last channel to the
    mark of denoising queries (DN-DETR, arXiv 2203.01305, section 4.3).

    Args:
        dim: width of queries.
        num_queries, num_one_to_many: anchors; see :class:`QuerySource`.
        num_patterns: each of the ``num_queries`` anchors is there once with each of so many learned patterns
            (Anchor DETR, arXiv 2109.07107, section 3.3); 0 for once, without a pattern.
        shared_content: one content for all queries (DN-DETR), or one for each (DN-DAB-Deformable-DETR).
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
        """See :class:`QuerySource`; of ``memory`` only the number of images counts."""
        anchors, content = self.anchors.weight[: self.total], self.content.weight[: self.total]
        content = nn.functional.pad(content, (0, 1)).expand(self.total, -1)
        if self.patterns is not None:
            once, extra = content.tensor_split([self.num_queries])
            patterned = (self.patterns.weight[:, None] + once).flatten(0, 1)
            content = torch.cat([patterned, extra])
            times = self.patterns.num_embeddings
            anchors = torch.cat([anchors[: self.num_queries].repeat(times, 1), anchors[self.num_queries :]])
        tokens = memory.tokens
        return InitialQueries(
            _for_batch(content, tokens).to(tokens.dtype), _for_batch(anchors, tokens), self.total - self.num_queries
        )

    def reparameterize(self) -> None:
        """Drop the queries that are only trained with."""
        self.forget_one_to_many("anchors", *([] if self.shared_content else ["content"]))


def _for_batch(rows: Tensor, tokens: Tensor) -> Tensor:
    """(Q, C) -> (B, Q, C) for the images of ``tokens``."""
    return rows.expand(tokens.shape[0], -1, -1)
