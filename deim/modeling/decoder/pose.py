"""Parts of a decoder for poses (DETRPose, arXiv 2506.13027).

A query consists of a token of the instance, from which its class is predicted, and a token of each of P keypoints. Its
references are 1 + P points: the mean of the keypoints, and the keypoints. Boxes are only the smallest that contain the
keypoints.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deim.layers import MLP, AttentionBlock, SelfAttention, sine_embedding
from deim.modeling.decoder.layer import GatedDecoderLayer
from deim.modeling.decoder.position import PositionEmbedding, QueryPosition
from deim.modeling.decoder.refinement import Refinement, RefinementState, equal_copies, keep_last_head
from deim.structures.boxes import inverse_sigmoid
from deim.structures.distribution import expected_offsets, weighting_function
from deim.structures.keypoints import bounding_boxes
from deim.structures.masks import sample_bilinear
from deim.structures.memory import Memory
from deim.structures.precision import in_full_precision
from deim.structures.prediction_group import PredictionGroup
from deim.structures.predictions import Predictions


class KeypointPosition(PositionEmbedding):
    """MLP on the sine embedding of each keypoint; zero for the token of the instance.

    Args:
        dim: width of the queries.
        activation: activation of the MLP.
    """

    for_keypoints = True

    def __init__(self, dim: int, activation: str = "relu"):
        super().__init__()
        self.dim = dim
        self.mlp = MLP(dim, dim, dim, 2, activation=activation)
        _initialize_matrices(self.mlp)

    def forward(self, index: int, queries: Tensor, boxes: Tensor, memory: Memory) -> QueryPosition:
        """Return the (B, Q, 1 + P, dim) position embeddings for a layer.

        Args:
            index, queries, memory: see :class:`PositionEmbedding`.
            boxes: (B, Q, 1 + P, 2) x and y of the references.
        """
        # The row precedes the column.
        sines = sine_embedding(boxes[:, :, 1:].flip(-1), self.dim // 2)
        return QueryPosition(F.pad(self.mlp(sines.to(queries.dtype)), (0, 0, 1, 0)))


class PoseDecoderLayer(GatedDecoderLayer):
    """Self-attention of the tokens within each query, self-attention of the same token across queries, deformable
    cross-attention of each token around its point, gate, feed-forward.

    As in the official code, position embeddings are part of the tokens: they also reach the values and the residual paths.

    Args:
        dim, num_heads, dim_feedforward, num_points, dropout, activation: see :class:`GatedDecoderLayer`.
    """

    for_keypoints = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        dim_feedforward: int,
        num_points: Sequence[int],
        dropout: float = 0.0,
        activation: str = "relu",
    ):
        super().__init__(dim, num_heads, dim_feedforward, num_points, dropout, activation)
        self.within_attn = SelfAttention(dim, num_heads, dropout)
        self.within_norm = nn.LayerNorm(dim)
        for part in (self.within_attn, self.self_attn, self.gateway):
            _initialize_matrices(part)

    def forward(
        self,
        queries: Tensor,
        position: QueryPosition,
        references: Tensor,
        memory: Memory,
        blocks: Sequence[AttentionBlock] = (),
    ) -> Tensor:
        """Apply the layer.

        Args:
            queries: (B, Q, 1 + P, dim).
            position: position embeddings (B, Q, 1 + P, dim).
            references: (B, Q, 1 + P, 2) points, relative to the image without padding.
            memory: output of the encoder.
            blocks: attention pattern of the queries; empty if all queries attend to all queries.

        Returns:
            (B, Q, 1 + P, dim).
        """
        batch, count, tokens, _ = queries.shape
        within = (queries + position.embedding).flatten(0, 1)
        within = self.within_norm(within + self.dropout(self.within_attn(within, within)))
        across = within.unflatten(0, (batch, count)).transpose(1, 2).flatten(0, 1)
        across = self.norm1(across + self.dropout(self.self_attn(across, across, blocks)))
        located = (across.unflatten(0, (batch, tokens)).transpose(1, 2) + position.embedding).flatten(1, 2)
        sampled = self.cross_attn(
            located,
            references.flatten(1, 2),
            memory.tokens,
            memory.spatial_shapes,
            memory.padding,
            memory.valid_ratios,
        )
        fused = self.fuse(located, self.dropout(sampled))
        output = self.normalize(fused + self.dropout(self._feed_forward(fused)))
        return output.unflatten(1, (count, tokens))


class KeypointQualityEstimator(nn.Module):
    """Correction of class logits by the features at the keypoints: the highest values among their channels.

    Args:
        num_keypoints: P.
        top_k: number of values per keypoint, besides their mean.
        hidden_dim, num_layers, activation: of the MLP that computes the correction.
    """

    def __init__(
        self, num_keypoints: int, top_k: int = 4, hidden_dim: int = 256, num_layers: int = 2, activation: str = "relu"
    ):
        super().__init__()
        self.top_k = top_k
        width = num_keypoints * (top_k + 1)
        self.reg_conf = MLP(width, hidden_dim, 1, num_layers, activation=activation, zero_init=True)

    def forward(self, logits: Tensor, points: Tensor, features: Tensor) -> Tensor:
        """Correct logits.

        Args:
            logits: (B, Q, K) class logits.
            points: (B, Q, P, 2) x and y, relative to the map.
            features: (B, C, h, w) map.

        Returns:
            (B, Q, K).
        """
        sampled = sample_bilinear(features, points.flatten(1, 2)).transpose(1, 2).unflatten(1, points.shape[1:3])
        highest = sampled.topk(self.top_k, dim=-1).values
        statistics = torch.cat([highest, highest.mean(dim=-1, keepdim=True)], dim=-1)
        return logits + self.reg_conf(statistics.flatten(-2).to(logits.dtype))


@dataclass
class KeypointState(RefinementState):
    """State of the refinement before a layer.

    Attributes:
        bin_values: (reg_max + 1,).
        features: (B, C, h, w) finest map of the encoder, 0 on padding.
        ratios: (B, 1, 1, 2) fractions of the width and height of the map inside of the image; None without padding.
        initial_keypoints: (B, Q, P, 2) keypoints that the distributions refine, without gradient.
        corners: (B, Q, P, 2, reg_max + 1) logits of the previous layer; () zero before the first layer.
        tokens: (B, Q, P, dim) keypoint tokens of the previous layer, without gradient; None before the first layer.
    """

    bin_values: Tensor
    features: Tensor
    ratios: Tensor | None
    initial_keypoints: Tensor
    corners: Tensor
    tokens: Tensor | None = None


class KeypointRefinement(Refinement):
    """Refinement of distributions of x and y (FDR): a plain head predicts the keypoints after the first layer, every layer
    refines them.

    The offsets are relative to the image, not to the size of the object.

    Args:
        dim, num_classes, num_layers: see :class:`Refinement`.
        num_keypoints: P.
        activation: activation of the heads and of the quality estimators.
        reg_max, up, reg_scale: see :func:`deim.structures.distribution.weighting_function`.
        logit_eps: minimum distance of references to 0 and 1 before the conversion to logits.
    """

    for_keypoints = True
    predicted_fields = ("keypoints",)

    def __init__(
        self,
        dim: int,
        num_classes: int,
        num_layers: int,
        num_keypoints: int,
        activation: str = "relu",
        reg_max: int = 32,
        up: float = 0.5,
        reg_scale: float = 4.0,
        logit_eps: float = 1e-3,
    ):
        super().__init__(dim, num_classes, num_layers)
        self.reg_max, self.logit_eps = reg_max, logit_eps
        # Never trained, but parameters because published checkpoints contain them.
        self.up = nn.Parameter(torch.tensor([up]), requires_grad=False)
        self.reg_scale = nn.Parameter(torch.tensor([reg_scale]), requires_grad=False)
        weighting_function(reg_max, self.up, self.reg_scale)  # raises for an invalid reg_max
        self.score_heads = equal_copies(self.score_heads[0], num_layers)
        corner_head = MLP(dim, dim, 2 * (reg_max + 1), 3, activation=activation, zero_init=True)
        self.corner_heads = equal_copies(corner_head, num_layers)
        quality_head = KeypointQualityEstimator(num_keypoints, activation=activation)
        self.quality_heads = equal_copies(quality_head, num_layers)
        self.initial_keypoint_head = MLP(dim, dim, 2, 3, activation=activation, zero_init=True)

    def initial_state(self, references: Tensor, memory: Memory | None = None) -> KeypointState:
        """Return the state before the first layer.

        Args:
            references: (B, Q, 1 + P, 2) points of the initial queries.
            memory: output of the encoder; required.
        """
        assert memory is not None
        features, ratios = in_full_precision(memory.finest_map), memory.valid_ratios
        if memory.padding is not None:
            height, width = features.shape[-2:]
            padding = memory.padding[:, : height * width].unflatten(1, (height, width))
            features = features.masked_fill(padding[:, None], 0)
        return KeypointState(
            references,
            bin_values=weighting_function(self.reg_max, self.up, self.reg_scale),
            features=features,
            ratios=None if ratios is None else ratios[:, None, :1],
            initial_keypoints=references[:, :, 1:],
            corners=references.new_zeros(()),
        )

    def before_layer(self, state: RefinementState, position: QueryPosition) -> KeypointState:
        """Add the position embeddings to the tokens of the previous layer, as the official code does in place."""
        assert isinstance(state, KeypointState)
        if state.tokens is None:
            return state
        return replace(state, tokens=state.tokens + position.embedding[:, :, 1:].detach())

    def forward(
        self, index: int, queries: Tensor, state: RefinementState, predict: bool
    ) -> tuple[KeypointState, dict[str, Predictions]]:
        """Predict and update the state; see :class:`Refinement`. In training, the keypoints of the plain head are
        ``initial``."""
        assert isinstance(state, KeypointState)
        predicted: dict[str, Predictions] = {}
        instance, tokens = queries[:, :, 0], queries[:, :, 1:]
        initial_keypoints = state.initial_keypoints
        if index == 0:
            logits = inverse_sigmoid(state.references[:, :, 1:], self.logit_eps)
            head_keypoints = (self.initial_keypoint_head(tokens) + logits).sigmoid()
            initial_keypoints = head_keypoints.detach()
            if self.training:
                predicted[PredictionGroup.INITIAL] = _predictions(self.score_heads[0](instance), head_keypoints)
        update = self.corner_heads[index](tokens if state.tokens is None else tokens + state.tokens)
        corners = state.corners + update.unflatten(-1, (2, self.reg_max + 1))
        offsets = expected_offsets(corners, state.bin_values) / self.reg_scale.abs()
        keypoints = initial_keypoints + offsets
        if predict:
            points = keypoints if state.ratios is None else keypoints * state.ratios
            scores = self.quality_heads[index](self.score_heads[index](instance), points, state.features)
            predicted[PredictionGroup.MAIN] = _predictions(scores, keypoints)
        references = torch.cat([keypoints.mean(dim=2, keepdim=True), keypoints], dim=2).detach()
        next_state = replace(
            state,
            references=references,
            initial_keypoints=initial_keypoints,
            corners=corners,
            tokens=tokens.detach(),
        )
        return next_state, predicted

    def keep_layers(self, count: int) -> None:
        """Keep the heads of the first ``count`` layers; only the last of them predicts, so only it keeps its class
        and quality heads."""
        self.corner_heads = self.corner_heads[:count]
        self.score_heads = keep_last_head(self.score_heads, count)
        self.quality_heads = keep_last_head(self.quality_heads, count)


def _predictions(logits: Tensor, keypoints: Tensor) -> Predictions:
    """Return the predictions of one layer from logits (B, Q, K) and keypoints (B, Q, P, 2)."""
    return Predictions(logits[None], bounding_boxes(keypoints)[None], keypoints=keypoints[None])


def _initialize_matrices(module: nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
