"""What decoders begin with."""

from dataclasses import dataclass, field

from torch import Tensor, nn

from deim.structures.memory import Memory
from deim.structures.predictions import Predictions


@dataclass
class InitialQueries:
    """Queries before the first decoder layer.

    Attributes:
        content: (B, Q, C).
        references: (B, Q, 4) box logits, or (B, Q, 2) those of points.
        num_one_to_many: how many of them, the last, are to be matched one-to-many.
        groups: predictions made on the way that are to be supervised, by name.
        position: (B, Q, C) position embedding for all layers; None where each layer's is made from boxes.
    """

    content: Tensor
    references: Tensor
    num_one_to_many: int = 0
    groups: dict[str, Predictions] = field(default_factory=dict)
    position: Tensor | None = None


class QuerySource(nn.Module):
    """Base of what queries come from.

    Args:
        num_queries: Q, matched one-to-one.
        num_one_to_many: how many more there are in training, for a hybrid branch (H-DETR, arXiv
            2207.13080, section 3.2), as far as the image has tokens for them.

    Raises:
        ValueError: fewer than one query, or fewer than no others.
    """

    # Whether queries begin as boxes, beside which noised ones make sense, or as points.
    gives_boxes = True
    # Whether queries come with position embeddings.
    gives_positions = False

    def __init__(self, num_queries: int, num_one_to_many: int = 0):
        super().__init__()
        if num_queries < 1:
            raise ValueError(f"num_queries must be at least 1, got {num_queries}")
        if num_one_to_many < 0:
            raise ValueError(f"num_one_to_many must not be negative, got {num_one_to_many}")
        self.num_queries, self.num_one_to_many = num_queries, num_one_to_many

    @property
    def total(self) -> int:
        """How many queries of the most there may be are used at present: all in training."""
        return self.num_queries + (self.num_one_to_many if self.training else 0)

    def forward(self, memory: Memory) -> InitialQueries:
        raise NotImplementedError

    def embed_positions(self, references: Tensor) -> Tensor:
        """Position embeddings (B, Q, C) of other boxes (B, Q, 4), given as logits.

        Only of sources that give both boxes and positions.
        """
        raise NotImplementedError

    def forget_one_to_many(self, *names: str) -> None:
        """Drop the one-to-many queries from embeddings with a row for each query; in place."""
        for name in names:
            kept = getattr(self, name).weight[: self.num_queries].detach().clone()
            setattr(self, name, nn.Embedding.from_pretrained(kept))
        self.num_one_to_many = 0
