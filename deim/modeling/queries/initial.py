"""What decoders begin with."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from deim.structures.predictions import Predictions


@dataclass
class InitialQueries:
    """Queries before the first decoder layer.

    Attributes:
        content: (B, Q, C).
        references: (B, Q, 4) box logits.
        num_one_to_many: how many of them, the last, are to be matched one-to-many.
        groups: predictions made on the way that are to be supervised, by name.
    """

    content: Tensor
    references: Tensor
    num_one_to_many: int = 0
    groups: dict[str, Predictions] = field(default_factory=dict)


class QuerySource(nn.Module):
    """Base of what queries come from.

    Args:
        num_queries: Q, matched one-to-one.
        num_one_to_many: how many more there are in training, for a hybrid branch (H-DETR, arXiv
            2207.13080, section 3.2), as far as the image has tokens for them.

    Raises:
        ValueError: fewer than one query, or fewer than no others.
    """

    def __init__(self, num_queries: int, num_one_to_many: int = 0):
        super().__init__()
        if num_queries < 1:
            raise ValueError(f"num_queries must be at least 1, got {num_queries}")
        if num_one_to_many < 0:
            raise ValueError(f"num_one_to_many must not be negative, got {num_one_to_many}")
        self.num_queries, self.num_one_to_many = num_queries, num_one_to_many

    def forward(
        self, memory: Tensor, spatial_shapes: Sequence[tuple[int, int]], padding: Tensor | None = None
    ) -> InitialQueries:
        """
        Args:
            memory: (B, S, C) tokens of all levels.
            spatial_shapes: (h, w) of each level.
            padding: (B, H, W) bool, True on padded pixels.
        """
        raise NotImplementedError
