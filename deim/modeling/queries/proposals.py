"""Two-stage queries of Deformable DETR (arXiv 2010.04159, appendix A.4)."""

from torch import Tensor, nn

from deim.layers import Linear, sine_embedding
from deim.modeling.queries.initial import InitialQueries
from deim.modeling.queries.selection import TwoStageSource, gather_tokens
from deim.structures.memory import Memory
from deim.structures.prediction_group import PredictionGroup
from deim.structures.predictions import Predictions


class RegionProposals(TwoStageSource):
    """Query source that predicts a box for every token; content and position are embeddings of the best boxes.

    All tokens are supervised as the group ``encoder``, independent of the class of an object. Only the logit of the
    first class counts as a token's score.

    Args:
        dim, num_classes, num_queries, activation, num_one_to_many, anchor_size: see :class:`TwoStageSource`.
        mixed_selection: learn the content and compute only the position from the box (DINO, section 3.4; H-DETR's
            "tricks").
    """

    provides_positions = True
    # The first logit scores objects of all classes. Its row must stay first if weights are loaded for other classes.
    has_class_scores = False

    def __init__(
        self,
        dim: int,
        num_classes: int,
        num_queries: int,
        activation: str = "relu",
        num_one_to_many: int = 0,
        anchor_size: float = 0.05,
        mixed_selection: bool = False,
    ):
        super().__init__(dim, num_classes, num_queries, activation, num_one_to_many, anchor_size)
        self.box_projection = Linear(2 * dim, 2 * dim)
        self.box_norm = nn.LayerNorm(2 * dim)
        self.content = nn.Embedding(num_queries + num_one_to_many, dim) if mixed_selection else None
        nn.init.xavier_uniform_(self.box_projection.weight)

    def forward(self, memory: Memory) -> InitialQueries:
        """Return the queries; see :class:`TwoStageSource`."""
        tokens, anchors, valid = self.candidates(memory)
        tokens, logits = self.score(tokens, valid)
        indices = self.top_indices(logits[..., 0])
        groups: dict[str, Predictions] = {}
        if self.training:
            boxes = self.bbox_head(tokens) + anchors
            groups[PredictionGroup.ENCODER] = Predictions(logits[None], boxes.sigmoid()[None])
            references = gather_tokens(boxes, indices).detach()
        else:
            references = self.bbox_head(gather_tokens(tokens, indices)) + gather_tokens(anchors, indices)
        position, content = self._embed(references).to(tokens.dtype).chunk(2, dim=-1)
        if self.content is not None:
            content = self.content.weight[: content.shape[1]].expand_as(content).to(tokens.dtype)
        return InitialQueries(content, references, content.shape[1] - self.num_queries, groups, position)

    def embed_positions(self, references: Tensor) -> Tensor:
        return self._embed(references).chunk(2, dim=-1)[0]

    def _embed(self, references: Tensor) -> Tensor:
        """Map (B, Q, 4) box logits to (B, Q, 2 * dim) position and content."""
        sines = sine_embedding(references.sigmoid(), self.box_projection.in_features // 4)
        return self.box_norm(self.box_projection(sines.to(self.box_projection.weight.dtype)))

    def remove_training_parts(self) -> None:
        """Remove the queries that are only used in training."""
        self.remove_one_to_many(*([] if self.content is None else ["content"]))
