"""Learned queries: the same for every image."""

from collections.abc import Sequence

from torch import Tensor, nn

from deim.modeling.queries.initial import InitialQueries, QuerySource


class LearnedQueries(QuerySource):
    """Embeddings of content and of a box for each query (DAB-DETR, arXiv 2201.12329, section 4.1, with
    content as in Deformable DETR).

    Boxes start anywhere in the image, half of its sides large.
    """

    def __init__(self, dim: int, num_queries: int):
        super().__init__()
        self.num_queries = num_queries
        self.content = nn.Embedding(num_queries, dim)
        self.references = nn.Embedding(num_queries, 4)
        nn.init.zeros_(self.references.weight)
        centres = self.references.weight.data[:, :2].uniform_(0, 1)
        centres.copy_(centres.logit(eps=1e-3))

    def forward(
        self, memory: Tensor, spatial_shapes: Sequence[tuple[int, int]], padding: Tensor | None = None
    ) -> InitialQueries:
        """See :class:`QuerySource`; of ``memory`` only the number of images counts."""
        batch = len(memory)
        return InitialQueries(
            self.content.weight.expand(batch, -1, -1).to(memory.dtype),
            self.references.weight.expand(batch, -1, -1),
        )
