"""Matching cost of keypoints."""

from collections.abc import Sequence

from torch import Tensor

from deim.structures.keypoints import labeled_distance, object_keypoint_similarity, oks_sigmas
from deim.structures.predictions import Predictions, Targets


class KeypointCost:
    """Weighted sum of the L1 distance of keypoints and 1 - OKS (DETRPose, arXiv 2506.13027).

    Objects without labeled keypoints have the cost 0.

    Args:
        l1_weight, oks_weight: weights of the two terms.
        sigmas: constants of the keypoints; see :func:`deim.structures.keypoints.oks_sigmas`.
    """

    # Not a dataclass, because OmegaConf converts dataclasses in lists to configs.
    def __init__(self, l1_weight: float = 10.0, oks_weight: float = 4.0, sigmas: Sequence[float] | None = None):
        self.l1_weight, self.oks_weight, self.sigmas = l1_weight, oks_weight, sigmas

    def __call__(self, predictions: Predictions, targets: Targets) -> Tensor | None:
        """Compute the cost of all pairs; see :class:`deim.modeling.matching.PredictionCost`. None without keypoints."""
        if predictions.keypoints is None or targets.keypoints is None:
            return None
        keypoints = predictions.keypoints[:, :, :, None]
        target = targets.keypoints[None, :, None].to(keypoints.dtype)
        area = targets.object_areas[None, :, None]
        similarity = object_keypoint_similarity(keypoints, target, area, oks_sigmas(target.shape[-2], self.sigmas))
        cost = self.l1_weight * labeled_distance(keypoints, target) + self.oks_weight * (1 - similarity)
        return cost * (target[..., 2] > 0).any(dim=-1)
