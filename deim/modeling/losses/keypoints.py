"""Losses of matched keypoints (DETRPose, arXiv 2506.13027)."""

from collections.abc import Sequence

from torch import Tensor

from deim.modeling.losses.group_loss import GroupLossInputs
from deim.structures.keypoints import labeled_distance, object_keypoint_similarity, oks_sigmas


class _KeypointLoss:
    """Base class of losses with one value per matched object. A subclass implements :meth:`per_object`.

    The values are summed over the matches of a layer and divided by their normalizer. The loss does not apply to groups
    without keypoints, and objects without labeled keypoints have no loss.

    Args:
        weight: factor of the loss in the total loss.
        localization: use the matches for localization, which may be the union of the matches of all layers, instead of
            those for classification.
    """

    def __init__(self, weight: float = 1.0, localization: bool = False):
        self.weight, self.localization = weight, localization

    def per_object(self, predicted: Tensor, target: Tensor, area: Tensor) -> Tensor:
        """Map (M, P, 2) predicted keypoints, (M, P, 3) targets and (M,) areas to (M,) losses."""
        raise NotImplementedError

    def __call__(self, inputs: GroupLossInputs) -> Tensor | None:
        """Return the (L,) losses of the layers."""
        keypoints, targets = inputs.predictions.keypoints, inputs.targets
        if keypoints is None or targets.keypoints is None:
            return None
        assignment = inputs.assignment
        matches = assignment.localization if self.localization else assignment.classification
        target = targets.keypoints[matches.image, matches.target].to(keypoints.dtype)
        area = targets.object_areas[matches.image, matches.target]
        losses = self.per_object(matches.gather(keypoints), target, area)
        has_keypoints = (target[..., 2] > 0).any(dim=-1)
        return matches.sum_by_layer(losses * has_keypoints, len(keypoints))


class KeypointL1Loss(_KeypointLoss):
    """L1 distance of matched keypoints, summed over the labeled keypoints of an object.

    Args:
        weight: factor of the loss in the total loss.
        localization: use the matches for localization instead of those for classification.
    """

    def per_object(self, predicted: Tensor, target: Tensor, area: Tensor) -> Tensor:
        return labeled_distance(predicted, target)


class KeypointOKSLoss(_KeypointLoss):
    """``1 - OKS`` of matched keypoints.

    Args:
        weight: factor of the loss in the total loss.
        sigmas: constants of the keypoints; see :func:`deim.structures.keypoints.oks_sigmas`.
        localization: use the matches for localization instead of those for classification.
    """

    def __init__(self, weight: float = 1.0, sigmas: Sequence[float] | None = None, localization: bool = False):
        super().__init__(weight, localization)
        self.sigmas = sigmas

    def per_object(self, predicted: Tensor, target: Tensor, area: Tensor) -> Tensor:
        sigmas = oks_sigmas(predicted.shape[-2], self.sigmas)
        return 1 - object_keypoint_similarity(predicted, target, area, sigmas)
