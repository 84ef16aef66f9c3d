"""Comparison of object counts with the limits of the model and the evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import OmegaConf

# Detections per image that COCO's evaluation counts.
USUAL_MAX_DETECTIONS = 100


@dataclass(frozen=True)
class Limits:
    """Maximum numbers of objects per image that a config supports; None if the config does not define a limit.

    Attributes:
        queries: objects that the model can detect.
        detections: detections that the model returns.
        evaluated: detections that the evaluation counts.
    """

    queries: int | None
    detections: int | None
    evaluated: int | None

    @classmethod
    def of(cls, cfg: Any) -> "Limits":
        """Return the limits of a config."""
        queries = ("model.decoder.queries.num_queries", "model.num_queries")
        detections = ("model.num_detections", "model.select_box_nums_for_evaluation")
        return cls(
            _first(cfg, queries), _first(cfg, detections), _first(cfg, ("dataloader.evaluator.max_dets_per_image",))
        )


def describe_counts(counts: Sequence[int] | np.ndarray) -> str:
    """Summarize the number of objects per image as text.

    Args:
        counts: (N,) objects of each image.
    """
    if not len(counts):
        return "no images"
    return f"mean {np.mean(counts):.2f}, 99th percentile {np.percentile(counts, 99):.0f}, maximum {np.max(counts)}"


def beyond_limits(counts: Sequence[int] | np.ndarray, limits: Limits, split: str) -> list[str]:
    """Describe the exceeded limits, their consequences, and the config keys that raise them.

    Args:
        counts: (N,) objects of each image.
        limits: limits of the config.
        split: "train" or "test"; only a test split is evaluated.

    Returns:
        one message per exceeded limit.
    """
    largest = int(np.max(counts, initial=0))
    told = []
    if limits.queries is not None and largest > limits.queries:
        images = int((np.asarray(counts) > limits.queries).sum())
        told.append(
            f"{images} {split} images have more objects (up to {largest}) than the model has queries "
            f"({limits.queries}), so some cannot be detected; increase model.decoder.queries.num_queries"
        )
    if split == "test" and limits.detections is not None and largest > limits.detections:
        told.append(
            f"test images have up to {largest} objects, but the model returns only {limits.detections} detections; "
            "increase model.num_detections"
        )
    evaluated = limits.evaluated or USUAL_MAX_DETECTIONS
    if split == "test" and largest > evaluated:
        told.append(
            f"test images have up to {largest} objects, but only {evaluated} detections per image are evaluated; "
            "increase dataloader.evaluator.max_dets_per_image"
        )
    return told


def _first(cfg: Any, keys: Sequence[str]) -> int | None:
    found = (OmegaConf.select(cfg, key, default=None) for key in keys)
    return next((int(value) for value in found if isinstance(value, int)), None)
