"""Learning rates, averages and warm-ups for another batch size, or other data, than those of the recipe."""

import logging
from typing import Any

from deim.errors import ConfigError

logger = logging.getLogger("detectron2.deim")


def scale_to_batch_size(cfg: Any, iters_per_epoch: int | None) -> bool:
    """Scale what depends on the batch size from ``train.reference_batch_size`` to the one in use, and what depends on the
    length of an epoch from ``train.reference_images`` to the data in use; in place.

    By the rule that D-FINE and DEIM publish ("Customizing Batch Size"): of a batch k times as large, learning rates are k times
    as high; and of a run that has r times as many iterations (1 / k, on the same data), both warm-ups are r times as
    long, and so is what the averages remember, ``1 / (1 - decay)``.

    Args:
        iters_per_epoch: of the data in use; None where the loader has no epochs.

    Returns:
        whether anything was scaled; not if ``train.reference_batch_size`` is None.

    Raises:
        ConfigError: the sizes make no sense.
    """
    reference, images = cfg.train.reference_batch_size, cfg.train.reference_images
    size = cfg.dataloader.train.total_batch_size
    if reference is None:
        return False
    if min(reference, size, 1 if images is None else images) < 1:
        raise ConfigError(
            f"train.reference_batch_size={reference}, .reference_images={images} and total_batch_size={size} must be at least 1"
        )
    of_known_length = images is not None and iters_per_epoch is not None
    length = iters_per_epoch * reference / images if of_known_length else reference / size
    # what the run is saved as is scaled already
    cfg.train.reference_batch_size = cfg.train.reference_images = None
    _scale_learning_rates(cfg.optimizer, size / reference)
    _scale_lengths(cfg, length)
    averages = cfg.train.model_ema
    logger.info(
        f"For a batch of {size} where the recipe has {reference}, and {length:.3g} times its iterations an epoch: "
        f"optimizer.lr={cfg.optimizer.lr:g} and its rules, schedule.warmup_iters={cfg.schedule.warmup_iters}, "
        f"train.model_ema.decay={averages.decay:g}, .warmup_iters={averages.warmup_iters} "
        "(train.reference_batch_size=null leaves all as it is)"
    )
    return True


def _scale_learning_rates(optimizer: Any, factor: float) -> None:
    optimizer.lr *= factor
    for rule in optimizer.params.rules.values():
        if "lr" in rule:
            rule.lr *= factor


def _scale_lengths(cfg: Any, factor: float) -> None:
    averages, schedule = cfg.train.model_ema, cfg.schedule
    for node in (schedule, averages):
        if node.warmup_iters:
            node.warmup_iters = max(round(node.warmup_iters * factor), 1)
    averages.decay = _remembering(averages.decay, factor)
    if schedule.final_ema_decay is not None:
        schedule.final_ema_decay = _remembering(schedule.final_ema_decay, factor)


def _remembering(decay: float, factor: float) -> float:
    """The decay of averages over so many times as many iterations; at least the last two."""
    return 1 - min((1 - decay) / factor, 0.5)
