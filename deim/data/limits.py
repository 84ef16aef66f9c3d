"""Objects in an image, against the most that a model can find and that an evaluation counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import OmegaConf

# What COCO's evaluation counts in an image.
USUAL_MAX_DETECTIONS = 100


@dataclass(frozen=True)
class Limits:
    """The most objects in an image that each part of a config can handle; None where the config does not say.

    Attributes:
        queries: objects that the model can find.
        detections: detections that the model returns.
        evaluated: detections that the evaluation counts.
    """

    queries: int | None
    detections: int | None
    evaluated: int | None

    @classmethod
    def of(cls, cfg: Any) -> "Limits":
        """Read the limits of a config."""
        queries = ("model.decoder.queries.num_queries", "model.num_queries")
        detections = ("model.num_detections", "model.select_box_nums_for_evaluation")
        return cls(
            _first(cfg, queries), _first(cfg, detections), _first(cfg, ("dataloader.evaluator.max_dets_per_image",))
        )


def describe_counts(counts: Sequence[int] | np.ndarray) -> str:
    """Describe the objects of all images in a few words.

    Args:
        counts: (N,) objects of each image.
    """
    if not len(counts):
        return "no images"
    return f"{np.mean(counts):.2f} on average, {np.percentile(counts, 99):.0f} at the 99th percentile, {np.max(counts)} at most"


def beyond_limits(counts: Sequence[int] | np.ndarray, limits: Limits, split: str) -> list[str]:
    """Say what happens to objects beyond the limits, and which keys raise these.

    Args:
        counts: (N,) objects of each image.
        split: "train" or "test"; only a test split is evaluated.

    Returns:
        a sentence for each limit that is exceeded.
    """
    largest = int(np.max(counts, initial=0))
    told = []
    if limits.queries is not None and largest > limits.queries:
        images = int((np.asarray(counts) > limits.queries).sum())
        told.append(
            f"{images} {split} images hold more objects (up to {largest}) than the model has queries "
            f"({limits.queries}): it cannot find the others. Raise model.decoder.queries.num_queries"
        )
    if split == "test" and limits.detections is not None and largest > limits.detections:
        told.append(
            f"test images hold up to {largest} objects, but the model returns {limits.detections} detections: "
            "raise model.num_detections"
        )
    evaluated = limits.evaluated or USUAL_MAX_DETECTIONS
    if split == "test" and largest > evaluated:
        told.append(
            f"test images hold up to {largest} objects, but {evaluated} detections of an image are evaluated: "
            "raise dataloader.evaluator.max_dets_per_image"
        )
    return told


def _first(cfg: Any, keys: Sequence[str]) -> int | None:
    found = (OmegaConf.select(cfg, key, default=None) for key in keys)
    return next((int(value) for value in found if isinstance(value, int)), None)
