"""Comparison of object counts with the limits of the model and the evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import OmegaConf

# Detections per image that COCO's evaluation counts.
COCO_MAX_DETECTIONS = 100


@dataclass(frozen=True)
class DetectionLimits:
    """Maximum numbers of objects per image that a config supports; None if the config does not define a limit.

    Attributes:
        num_queries: objects that the model can detect.
        num_detections: detections that the model returns.
        max_dets_per_image: detections that the evaluation counts.
    """

    num_queries: int | None
    num_detections: int | None
    max_dets_per_image: int | None

    @classmethod
    def from_config(cls, cfg: Any) -> "DetectionLimits":
        """Return the limits of a config."""
        return cls(
            _first_integer(cfg, ("model.decoder.queries.num_queries", "model.num_queries")),
            _first_integer(cfg, ("model.num_detections", "model.select_box_nums_for_evaluation")),
            _first_integer(cfg, ("dataloader.evaluator.max_dets_per_image",)),
        )


def describe_counts(counts: Sequence[int] | np.ndarray) -> str:
    """Summarize the number of objects per image as text.

    Args:
        counts: (N,) objects of each image.
    """
    if not len(counts):
        return "no images"
    return f"mean {np.mean(counts):.2f}, 99th percentile {np.percentile(counts, 99):.0f}, maximum {np.max(counts)}"


def limit_warnings(counts: Sequence[int] | np.ndarray, limits: DetectionLimits, split: str) -> list[str]:
    """Describe the exceeded limits, their consequences, and the config keys that set the limits.

    Args:
        counts: (N,) objects of each image.
        limits: limits of the config.
        split: "train" or "test"; only a test split is evaluated.

    Returns:
        one message per exceeded limit.
    """
    largest = int(np.max(counts, initial=0))
    warnings = []
    if limits.num_queries is not None and largest > limits.num_queries:
        images = int((np.asarray(counts) > limits.num_queries).sum())
        warnings.append(
            f"{images} {split} images have more objects (up to {largest}) than the model has queries "
            f"({limits.num_queries}), so some cannot be detected; increase model.decoder.queries.num_queries "
            "(model.num_queries in configs of detrex)"
        )
    if split == "test" and limits.num_detections is not None and largest > limits.num_detections:
        warnings.append(
            f"test images have up to {largest} objects, but the model returns only {limits.num_detections} detections; "
            "increase model.num_detections (model.select_box_nums_for_evaluation in configs of detrex)"
        )
    max_dets = limits.max_dets_per_image or COCO_MAX_DETECTIONS
    if split == "test" and largest > max_dets:
        warnings.append(
            f"test images have up to {largest} objects, but only {max_dets} detections per image are evaluated; "
            "increase dataloader.evaluator.max_dets_per_image"
        )
    return warnings


def _first_integer(cfg: Any, keys: Sequence[str]) -> int | None:
    values = (OmegaConf.select(cfg, key, default=None) for key in keys)
    return next((int(value) for value in values if isinstance(value, int)), None)
