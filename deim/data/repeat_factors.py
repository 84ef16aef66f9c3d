"""Repeat-factor sampling: images of rare classes are drawn more often (LVIS, arXiv 1908.03195)."""

import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np

from deim.data.records import annotation_arrays
from deim.errors import ConfigError

logger = logging.getLogger("detectron2.deim")


def repeat_factors(records: Sequence[dict], threshold: float) -> np.ndarray:
    """Return how often each image is drawn in an epoch on average, as detectron2's ``RepeatFactorTrainingSampler``.

    The factor of a class is ``max(1, sqrt(threshold / f))``, where f is the fraction of the images with an object of this
    class. The factor of an image is the largest factor of its classes, or 1 without objects.

    Args:
        records: detectron2 records.
        threshold: fraction of images in (0, 1] below which a class is rare.

    Returns:
        (N,) float64 of at least 1.

    Raises:
        ConfigError: if the threshold is out of range.
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"dataloader.train.repeat_threshold must be in (0, 1], got {threshold}")
    if not records:
        return np.ones(0)
    classes = [set(annotation_arrays(record)[1].tolist()) for record in records]
    images_of_class = Counter(label for labels in classes for label in labels)
    factors = {label: max(1.0, (threshold / (count / len(records))) ** 0.5) for label, count in images_of_class.items()}
    result = np.array([max((factors[label] for label in labels), default=1.0) for labels in classes])
    repeated = sum(factor > 1 for factor in factors.values())
    logger.info(
        f"Repeat-factor sampling: {repeated} of {len(factors)} classes are in less than {threshold:g} of the images. An "
        f"epoch has {np.ceil(result.sum()):.0f} images instead of {len(records)}; the largest factor is {result.max():.2f}"
    )
    return result


def round_factors(factors: np.ndarray, total: int, offset: float) -> np.ndarray:
    """Round factors up or down to whole numbers with a given sum (systematic sampling).

    With an offset drawn from [0, 1), the mean of each number is its factor times ``total / factors.sum()``.

    Args:
        factors: (N,) float64.
        total: sum of the result.
        offset: in [0, 1).

    Returns:
        (N,) int64.
    """
    ends = np.cumsum(factors) * (total / factors.sum())
    ends[-1] = total
    return np.diff(np.ceil(ends - offset).astype(np.int64), prepend=0)
