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
        groups: predictions made on the way that are to be supervised, by name.
    """

    content: Tensor
    references: Tensor
    groups: dict[str, Predictions] = field(default_factory=dict)


class QuerySource(nn.Module):
    """Base of what queries come from."""

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
