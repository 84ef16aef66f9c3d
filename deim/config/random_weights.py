"""Settings of runs from random weights, for datasets that are far smaller than that of the recipe."""

import math
from typing import Any

from deim.config.batch_size import BATCH_SIZE_KEY, is_unscaled

DENSE_KEY = "schedule.dense_epochs"

# Largest number of training images for which the settings are adapted. They were measured on 150 to 600 images.
MAX_IMAGES = 5000
# A smaller batch is used if an epoch has fewer iterations.
MIN_ITERATIONS_PER_EPOCH = 25
MIN_BATCH_SIZE = 8
# Dense O2O shrinks and crops the objects. It helps once the model detects the first ones.
DENSE_START_ITER = 300


def fit_to_small_data(
    cfg: Any, num_images: int, world_size: int = 1, stored_batch_size: int | None = None
) -> dict[str, Any]:
    """Adapt the batch size and the start of Dense O2O to the number of training images, in place.

    The batch of a recipe may be larger than a small dataset, whose epochs then have only a few iterations. The batch is
    halved until an epoch has ``MIN_ITERATIONS_PER_EPOCH`` iterations. Dense O2O starts after ``DENSE_START_ITER``
    iterations, or after two thirds of the epochs before its end if that is earlier. Nothing is changed if
    ``train.reference_batch_size`` is None, and keys in ``train.unscaled_keys`` keep their values.

    Args:
        cfg: a config with a number as batch size, whose weights are random at the start; see :func:`deim.engine.initial_state.starts_from_random_weights`.
        num_images: number of training images.
        world_size: number of ranks.
        stored_batch_size: batch size of the run that is resumed; None for a new run.

    Returns:
        The changed keys with their new values.
    """
    if cfg.train.reference_batch_size is None:
        return {}
    changes: dict[str, Any] = {}
    size = cfg.dataloader.train.total_batch_size
    if not is_unscaled(cfg, BATCH_SIZE_KEY):
        smaller = stored_batch_size or smaller_batch(size, num_images, world_size)
        if smaller != size:
            changes[BATCH_SIZE_KEY] = cfg.dataloader.train.total_batch_size = size = smaller
    schedule = cfg.get("schedule")
    if schedule is not None and schedule.dense_epochs[0] < schedule.dense_epochs[1] and not is_unscaled(cfg, DENSE_KEY):
        start, end = schedule.dense_epochs
        later = min(math.ceil(DENSE_START_ITER * size / num_images), end * 2 // 3)
        if later > start:
            changes[DENSE_KEY] = schedule.dense_epochs = [later, end]
    return changes


def smaller_batch(size: int, num_images: int, world_size: int) -> int:
    """Return the batch size, halved until an epoch has ``MIN_ITERATIONS_PER_EPOCH`` iterations.

    Args:
        size: batch size over all ranks, a multiple of ``world_size``.
    """
    while size >= 2 * MIN_BATCH_SIZE and size % (2 * world_size) == 0 and num_images // size < MIN_ITERATIONS_PER_EPOCH:
        size //= 2
    return size
