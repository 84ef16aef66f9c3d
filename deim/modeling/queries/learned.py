"""Learned queries: the same for every image."""

from collections.abc import Sequence

from torch import Tensor, nn

from deim.modeling.queries.initial import InitialQueries, QuerySource


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
        centres = self.references.weight.data[:, :2].uniform_(0, 1)
        centres.copy_(centres.logit(eps=1e-3))

    def forward(
        self, memory: Tensor, spatial_shapes: Sequence[tuple[int, int]], padding: Tensor | None = None
    ) -> InitialQueries:
        """See :class:`QuerySource`; of ``memory`` only the number of images counts."""
        batch, extra = len(memory), self.num_one_to_many if self.training else 0
        count = self.num_queries + extra
        return InitialQueries(
            self.content.weight[:count].expand(batch, -1, -1).to(memory.dtype),
            self.references.weight[:count].expand(batch, -1, -1),
            extra,
        )

    def reparameterize(self) -> None:
        """Drop the queries that are only trained with."""
        for name in ("content", "references"):
            kept = getattr(self, name).weight[: self.num_queries].detach().clone()
            setattr(self, name, nn.Embedding.from_pretrained(kept))
        self.num_one_to_many = 0
