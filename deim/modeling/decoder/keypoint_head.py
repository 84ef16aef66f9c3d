"""Keypoint head: keypoints of each object, relative to its box."""

import torch
from torch import Tensor, nn

from deim.layers import MLP, Linear
from deim.modeling.decoder.heads import PredictionHead
from deim.structures.masks import sample_bilinear
from deim.structures.memory import Memory


class KeypointHead(PredictionHead):
    """Keypoints in two steps, for each layer: from the query, then from the features at the predicted positions.

    Positions are relative to the layer's box, in units of its sides. The second step samples the encoder's finest map
    at each keypoint, as the keypoint queries of DETRPose (arXiv 2506.13027) sample the maps around their keypoint.

    Args:
        dim: width of the queries and of the map.
        num_layers: number of decoder layers, each with its own networks.
        num_keypoints: P.
        activation: activation of the networks.
    """

    def __init__(self, dim: int, num_layers: int, num_keypoints: int, activation: str = "relu"):
        super().__init__()
        self.num_keypoints = num_keypoints
        self.position_heads = nn.ModuleList(
            MLP(dim, dim, 2 * num_keypoints, 3, activation=activation, zero_init=True) for _ in range(num_layers)
        )
        self.point_embeddings = nn.ParameterList(torch.randn(num_keypoints, dim) * 0.02 for _ in range(num_layers))
        self.feature_proj = nn.ModuleList(Linear(dim, dim) for _ in range(num_layers))
        self.correction_heads = nn.ModuleList(
            MLP(dim, dim, 2, 3, activation=activation, zero_init=True) for _ in range(num_layers)
        )

    def initial_state(self, memory: Memory) -> tuple[Tensor, Tensor | None]:
        """Return the finest map (B, dim, h, w) and the fractions (B, 1, 1, 2) of its width and height inside of the
        image, None without padding."""
        ratios = memory.valid_ratios
        return memory.finest_map, None if ratios is None else ratios[:, None, :1]

    def forward(
        self, index: int, queries: Tensor, boxes: Tensor | None, state: tuple[Tensor, Tensor | None]
    ) -> tuple[tuple[Tensor, Tensor | None], Tensor | None]:
        """Predict keypoints; see :class:`PredictionHead`. The state does not change.

        Returns:
            the state, and (1, B, Q, P, 2) x and y relative to the image, or None.
        """
        if boxes is None:
            return state, None
        features, ratios = state
        # The box head is trained by the boxes only.
        center, size = boxes.detach()[:, :, None].chunk(2, dim=-1)
        offsets = self.position_heads[index](queries).unflatten(-1, (self.num_keypoints, 2))
        points = (center + offsets * size).detach()
        points = points if ratios is None else points * ratios
        sampled = sample_bilinear(features, points.flatten(1, 2)).transpose(1, 2).unflatten(1, points.shape[1:3])
        keypoint_queries = queries[:, :, None] + self.point_embeddings[index] + self.feature_proj[index](sampled)
        offsets = offsets + self.correction_heads[index](keypoint_queries)
        return state, (center + offsets * size)[None]

    def keep_layers(self, count: int) -> None:
        """Keep the networks of the last of ``count`` layers, the only layer that predicts."""
        for name in ("position_heads", "feature_proj", "correction_heads"):
            last = getattr(self, name)[count - 1]
            setattr(self, name, nn.ModuleList([nn.Identity()] * (count - 1) + [last]))
        self.point_embeddings = self.point_embeddings[:count]
