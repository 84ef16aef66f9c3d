"""Quality of the matched predictions: the target of the classification losses."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from deim.modeling.losses.assignment import DeviceMatches
from deim.modeling.losses.matched_boxes import matched_ious
from deim.structures.keypoints import object_keypoint_similarity, oks_sigmas
from deim.structures.predictions import Predictions, Targets


class MatchQuality(Protocol):
    """Quality of the matches of all groups. Any class with this interface can be ``criterion.quality``."""

    def __call__(
        self, predictions: Sequence[Predictions], matches: Sequence[DeviceMatches], targets: Targets
    ) -> list[Tensor]:
        """Compare predictions with their objects.

        Args:
            predictions: predictions of each group.
            matches: matches of each group for classification.
            targets: ground truth of the batch.

        Returns:
            (M,) values in [0, 1] for the M matches of each group, without gradient.
        """
        ...


class BoxIoUQuality:
    """IoU of the boxes."""

    def __call__(
        self, predictions: Sequence[Predictions], matches: Sequence[DeviceMatches], targets: Targets
    ) -> list[Tensor]:
        """Return the IoU of the matches of each group; see :class:`MatchQuality`."""
        return matched_ious([group.boxes for group in predictions], matches, targets.boxes)


class KeypointQuality:
    """OKS of the keypoints (DETRPose, arXiv 2506.13027); 0 for objects without labeled keypoints.

    Args:
        sigmas: constants of the keypoints; see :func:`deim.structures.keypoints.oks_sigmas`.
    """

    def __init__(self, sigmas: Sequence[float] | None = None):
        self.sigmas = sigmas

    @torch.no_grad()
    def __call__(
        self, predictions: Sequence[Predictions], matches: Sequence[DeviceMatches], targets: Targets
    ) -> list[Tensor]:
        """Return the OKS of the matches of each group; see :class:`MatchQuality`.

        Raises:
            ValueError: if the predictions or the ground truth have no keypoints.
        """
        return [self._similarity(*group, targets) for group in zip(predictions, matches, strict=True)]

    def _similarity(self, predictions: Predictions, matches: DeviceMatches, targets: Targets) -> Tensor:
        if predictions.keypoints is None or targets.keypoints is None:
            raise ValueError("KeypointQuality needs keypoints in the predictions of all groups and in the ground truth")
        target = targets.keypoints[matches.image, matches.target].to(predictions.keypoints.dtype)
        area = targets.object_areas[matches.image, matches.target]
        sigmas = oks_sigmas(target.shape[-2], self.sigmas)
        return object_keypoint_similarity(matches.gather(predictions.keypoints), target, area, sigmas)
