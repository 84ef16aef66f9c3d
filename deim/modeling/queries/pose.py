"""Queries for poses: a token of the instance, followed by a token of each keypoint (DETRPose, arXiv 2506.13027)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deim.layers import MLP
from deim.modeling.queries.anchors import generate_points, unpadded_points
from deim.modeling.queries.denoising import Denoising, DenoisingQueries, replace_labels
from deim.modeling.queries.initial import InitialQueries
from deim.modeling.queries.selection import QuerySelection, gather_tokens
from deim.structures.boxes import inverse_sigmoid
from deim.structures.keypoints import bounding_boxes, oks_sigmas, sigmas_like
from deim.structures.memory import Memory
from deim.structures.prediction_group import PredictionGroup
from deim.structures.predictions import Predictions, Targets


class PoseSelection(QuerySelection):
    """Query source that predicts poses from the encoder tokens with the best scores.

    The tokens give only the initial poses. The content is learned: one embedding per query and per keypoint, whose sum is
    the token of the keypoint, and one embedding for the instance.

    Args:
        dim, num_classes, num_queries, num_one_to_many: see :class:`QuerySelection`.
        num_keypoints: P.
        activation: activation of the pose head.
    """

    for_keypoints = True
    has_box_head = False

    def __init__(
        self,
        dim: int,
        num_classes: int,
        num_queries: int,
        num_keypoints: int,
        activation: str = "relu",
        num_one_to_many: int = 0,
    ):
        super().__init__(dim, num_classes, num_queries, activation, num_one_to_many)
        self.num_keypoints = num_keypoints
        self.pose_head = MLP(dim, 2 * dim, 2 * num_keypoints, 4, activation=activation, zero_init=True)
        self.content = nn.Embedding(num_queries + num_one_to_many, dim)
        self.keypoint_embedding = nn.Embedding(num_keypoints, dim)
        self.instance_embedding = nn.Embedding(1, dim)
        for embedding in (self.content, self.keypoint_embedding, self.instance_embedding):
            nn.init.xavier_uniform_(embedding.weight)
        if isinstance(self.projection, nn.Linear):
            self.projection.reset_parameters()

    def candidates(self, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """Return the tokens, their points (1 or B, S, 2) as logits, and the mask of valid tokens; see
        :class:`QuerySelection`."""
        tokens, _, _ = super().candidates(memory)
        return tokens, *generate_points(memory)

    def anchors(self, spatial_shapes: tuple[tuple[int, int], ...]) -> tuple[Tensor, Tensor]:
        """Return points (1, S, 2), as logits, and the mask (1, S, 1) for unpadded maps with these (height, width)."""
        return unpadded_points(spatial_shapes, torch.device("cpu"))

    def forward(self, memory: Memory) -> InitialQueries:
        """Select the queries.

        Returns:
            queries, whose references are the mean of the keypoints and the keypoints, without gradient; and as the group
            ``encoder``, with gradient, the logits and poses of the first ``num_queries``.
        """
        tokens, points, valid = self.candidates(memory)
        top_indices = self.select_top(tokens, valid)
        selected, logits = self.score(gather_tokens(tokens, top_indices), gather_tokens(valid, top_indices))
        offsets = self.pose_head(selected).unflatten(-1, (self.num_keypoints, 2))
        keypoint_logits = offsets + gather_tokens(points, top_indices)[:, :, None]
        keypoints = keypoint_logits.sigmoid()
        center = keypoints.mean(dim=2, keepdim=True).logit()
        chosen = Predictions(logits[None], bounding_boxes(keypoints)[None], keypoints=keypoints[None])
        num_one_to_many = selected.shape[1] - self.num_queries
        supervised, _ = chosen.split([self.num_queries, num_one_to_many])
        return InitialQueries(
            self._content(selected),
            torch.cat([center, keypoint_logits], dim=2).detach(),
            num_one_to_many,
            {PredictionGroup.ENCODER: supervised},
        )

    def _content(self, selected: Tensor) -> Tensor:
        """Return the (B, Q, 1 + P, C) content of as many queries as there are ``selected`` tokens (B, Q, C)."""
        batch, count, _ = selected.shape
        keypoints = self.content.weight[:count, None] + self.keypoint_embedding.weight
        instance = self.instance_embedding.weight.expand(count, 1, -1)
        content = torch.cat([instance, keypoints], dim=1)
        return content.to(selected.dtype).expand(batch, -1, -1, -1)

    def remove_training_parts(self) -> None:
        """Remove the queries that are only used in training."""
        self.remove_one_to_many("content")


class PoseDenoising(Denoising):
    """Contrastive denoising of poses: positives with little noise, and negatives with more.

    The noise of a keypoint depends on its constant and on the size of the object, as OKS does: a shift in a direction of
    length 1 leaves an OKS of 0.5 to 1 for positives, and of 0.1 to 0.5 for negatives. Keypoints without label are at the
    corner of the image, and have no noise.

    Args:
        dim: width of the queries.
        num_classes: K.
        num_keypoints: P.
        num_queries: approximate number of positives per image, over all groups.
        num_labels: number of labels, by which the label of a query may be replaced; at least ``num_classes``. The official
            code has the 80 labels of COCO also for persons.
        label_noise_ratio: twice the probability that the label of a query is replaced.
        sigmas: constants of the keypoints; see :func:`deim.structures.keypoints.oks_sigmas`.
        unit_directions: shift in directions of length 1. False follows the official code, which normalizes the directions
            over the keypoints instead of over x and y, so that the shifts are many times larger.
        logit_eps: minimum distance of coordinates to 0 and 1 before the conversion to logits.
    """

    for_keypoints = True

    def __init__(
        self,
        dim: int,
        num_classes: int,
        num_keypoints: int,
        num_queries: int = 20,
        num_labels: int = 80,
        label_noise_ratio: float = 0.5,
        sigmas: Sequence[float] | None = None,
        unit_directions: bool = False,
        logit_eps: float = 1e-3,
    ):
        super().__init__()
        self.num_queries, self.num_labels = num_queries, max(num_labels, num_classes)
        self.label_noise_ratio = label_noise_ratio
        self.sigmas = oks_sigmas(num_keypoints, sigmas)
        self.unit_directions, self.logit_eps = unit_directions, logit_eps
        # The official code has one unused row.
        self.class_embedding = nn.Embedding(self.num_labels + 1, dim)
        self.keypoint_embedding = nn.Embedding(num_keypoints, dim)
        for embedding in (self.class_embedding, self.keypoint_embedding):
            nn.init.xavier_uniform_(embedding.weight)

    def forward(self, targets: Targets) -> DenoisingQueries:
        """Create the denoising queries of a batch; see :class:`Denoising`.

        Raises:
            ValueError: if the ground truth has no keypoints.
        """
        if targets.keypoints is None:
            raise ValueError("PoseDenoising needs ground truth with keypoints")
        max_objects = targets.labels.shape[1]
        groups = max(self.num_queries // max_objects, 1) if max_objects else 0
        valid = targets.valid.repeat(1, 2 * groups)
        labels = replace_labels(
            targets.labels.repeat(1, 2 * groups), valid, self.num_labels, self.label_noise_ratio * 0.5
        )
        instance = self.class_embedding(labels)[:, :, None]
        content = torch.cat([instance, self.keypoint_embedding.weight.expand(*labels.shape, -1, -1)], dim=2)
        negative = torch.arange(labels.shape[1], device=labels.device) % max(2 * max_objects, 1) >= max_objects
        poses = self._initial_poses(targets).repeat(1, 2 * groups, 1, 1)
        noise = self._noise(poses, negative) * self._noise_scales(targets).repeat(1, 2 * groups, 1)[..., None]
        mask = valid[..., None, None]
        return DenoisingQueries(
            content=content * mask,
            references=inverse_sigmoid(poses + noise, self.logit_eps) * mask,
            num_groups=groups,
            group_size=2 * max_objects,
        )

    @staticmethod
    def _initial_poses(targets: Targets) -> Tensor:
        """Return (B, T, 1 + P, 2) x and y of the instance and of its keypoints, relative to the image."""
        assert targets.keypoints is not None
        # As in the official code, which takes the center and size of the box for its corners.
        instance = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
        keypoints = targets.keypoints[..., :2] * (targets.keypoints[..., 2:] > 0)
        return torch.cat([instance[:, :, None], keypoints], dim=2)

    def _noise_scales(self, targets: Targets) -> Tensor:
        """Return (B, T, 1 + P) distances at which the OKS of a keypoint is 1 / e; 0 without label and for the instance."""
        assert targets.keypoints is not None
        factors = sigmas_like(targets.keypoints, [2 * math.sqrt(2) * sigma for sigma in self.sigmas])
        scales = targets.object_areas.sqrt()[..., None] * factors * (targets.keypoints[..., 2] > 0)
        return F.pad(scales, (1, 0))

    def _noise(self, poses: Tensor, negative: Tensor) -> Tensor:
        """Return (B, N, 1 + P, 2) shifts, relative to the scale of each keypoint.

        Args:
            poses: (B, N, 1 + P, 2).
            negative: (N,) bool.
        """
        directions = torch.rand_like(poses)
        if self.unit_directions:
            directions = F.normalize(2 * directions - 1, dim=-1)
        else:
            # The official code calls F.normalize(directions, -1): the norm of order -1 over the keypoints.
            directions = F.normalize(directions, p=-1.0, dim=2)
        exponent = self._exponents(poses[..., :1], negative[:, None, None])
        return exponent.sqrt() * directions

    @staticmethod
    def _exponents(like: Tensor, negative: Tensor) -> Tensor:
        """Draw -log(OKS): uniformly in [0, log 2) for positives, and in [log 2, log 10) for negatives."""
        low, high = math.log(2), math.log(10)
        uniform = torch.rand_like(like)
        return torch.where(negative, low + (high - low) * uniform, low * uniform)
