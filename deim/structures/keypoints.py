"""Similarity of keypoints."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Constants of COCO's person keypoints, from nose to ankles (https://cocodataset.org/#keypoints-eval).
COCO_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
    *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)
# For other keypoints.
DEFAULT_SIGMA = 0.05


def oks_sigmas(num_keypoints: int, sigmas: Sequence[float] | None = None) -> list[float]:
    """Return the constants of ``num_keypoints`` keypoints: the given ones, COCO's for 17 keypoints, or equal ones.

    Raises:
        ValueError: if the number of constants differs from the number of keypoints.
    """
    if sigmas is None:
        return list(COCO_SIGMAS) if num_keypoints == len(COCO_SIGMAS) else [DEFAULT_SIGMA] * num_keypoints
    if len(sigmas) != num_keypoints:
        raise ValueError(f"{len(sigmas)} sigmas for {num_keypoints} keypoints")
    return list(sigmas)


def object_keypoint_similarity(predicted: Tensor, target: Tensor, area: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Return the object keypoint similarity (OKS), the mean over labeled keypoints of exp(-d^2 / (2 area (2 sigma)^2)).

    Args:
        predicted: (..., P, 2) x and y.
        target: (..., P, 3) x, y and visibility; 0 means not labeled.
        area: (...) of the object, in squared units of the positions.
        sigmas: P constants, which state how exactly each keypoint can be annotated.

    Returns:
        (...) in [0, 1]; 0 without labeled keypoints.
    """
    positions, visibility = target[..., :2], target[..., 2]
    labeled = (visibility > 0).to(predicted.dtype)
    variances = (2 * sigmas_like(predicted, sigmas)) ** 2
    distance = ((predicted - positions) ** 2).sum(dim=-1) / (2 * area[..., None].clamp(min=1e-12) * variances)
    return ((-distance).exp() * labeled).sum(dim=-1) / labeled.sum(dim=-1).clamp(min=1)


def sigmas_like(x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Return the (P,) constants with the type and on the device of ``x``, without waiting for the device."""
    return torch.tensor(list(sigmas), dtype=x.dtype).to(x.device, non_blocking=True)


def labeled_distance(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the (...) absolute differences of x and y, summed over labeled keypoints; for arguments see
    :func:`object_keypoint_similarity`."""
    labeled = (target[..., 2:] > 0).to(predicted.dtype)
    return torch.sum((predicted - target[..., :2]).abs() * labeled, dim=(-1, -2))


def scored_keypoints(points: Tensor, scores: Tensor) -> Tensor:
    """Return keypoints with scores (N, P, 3), given positions (N, P, 2) and the scores of the N detections."""
    return torch.cat([points, scores[:, None, None].expand(-1, points.shape[1], 1)], dim=-1)


def bounding_boxes(keypoints: Tensor) -> Tensor:
    """Return the smallest boxes (..., 4) cxcywh that contain the keypoints (..., P, 2) of an object."""
    low, high = keypoints.amin(dim=-2), keypoints.amax(dim=-2)
    return torch.cat([(low + high) / 2, high - low], dim=-1)
