"""Initial queries of decoders."""

from dataclasses import dataclass, field

from torch import Tensor, nn

from deim.structures.memory import Memory
from deim.structures.predictions import Predictions


@dataclass
class InitialQueries:
    """Queries before the first decoder layer.

    Attributes:
        content: (B, Q, C); with keypoints (B, Q, 1 + P, C), a token of the instance and one of each keypoint.
        references: (B, Q, 4) box logits, (B, Q, 2) point logits, or with keypoints (B, Q, 1 + P, 2) point logits.
        num_one_to_many: number of queries, at the end, that are matched one-to-many.
        groups: {name: intermediate predictions to be supervised}.
        position: (B, Q, C) position embedding for all layers; None if the decoder computes the embedding of each layer
            from boxes.
    """

    content: Tensor
    references: Tensor
    num_one_to_many: int = 0
    groups: dict[str, Predictions] = field(default_factory=dict)
    position: Tensor | None = None


class QuerySource(nn.Module):
    """Base class of query sources.

    Args:
        num_queries: Q, number of queries that are matched one-to-one.
        num_one_to_many: number of additional queries in training, for a hybrid branch (H-DETR, arXiv 2207.13080,
            section 3.2); fewer if the image has fewer tokens.

    Raises:
        ValueError: if ``num_queries`` is less than 1, or ``num_one_to_many`` is negative.
    """

    # True if queries start as boxes, which denoising requires; False if they start as points.
    provides_boxes = True
    # True if queries are poses; see deim.modeling.decoder.pose.
    for_keypoints = False
    # True if the source returns position embeddings.
    provides_positions = False

    def __init__(self, num_queries: int, num_one_to_many: int = 0):
        super().__init__()
        if num_queries < 1:
            raise ValueError(f"num_queries must be at least 1, got {num_queries}")
        if num_one_to_many < 0:
            raise ValueError(f"num_one_to_many must not be negative, got {num_one_to_many}")
        self.num_queries, self.num_one_to_many = num_queries, num_one_to_many

    @property
    def num_active_queries(self) -> int:
        """Maximum number of queries in the current mode, without repetition for patterns.

        One-to-many queries are only used in training.
        """
        return self.num_queries + (self.num_one_to_many if self.training else 0)

    def forward(self, memory: Memory) -> InitialQueries:
        raise NotImplementedError

    def embed_positions(self, references: Tensor) -> Tensor:
        """Return position embeddings (B, N, C) of denoising queries with the boxes (B, N, 4), given as logits.

        Only for sources with both boxes and position embeddings.
        """
        raise NotImplementedError

    def remove_one_to_many(self, *names: str) -> None:
        """Remove the rows of one-to-many queries from embeddings with one row per query; in place."""
        for name in names:
            one_to_one = getattr(self, name).weight[: self.num_queries].detach().clone()
            setattr(self, name, nn.Embedding.from_pretrained(one_to_one))
        self.num_one_to_many = 0
