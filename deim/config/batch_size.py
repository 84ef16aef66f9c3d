"""Scaling of learning rates, EMA decay and warm-ups to the batch size and the dataset in use."""

import logging
from typing import Any

from deim.errors import ConfigError

logger = logging.getLogger("detectron2.deim")

# Value of ``dataloader.train.total_batch_size`` that lets the run choose it; see :mod:`deim.engine.auto_batch_size`.
AUTO = "auto"


def scale_to_batch_size(cfg: Any, iters_per_epoch: int | None) -> bool:
    """Scale the hyperparameters of a recipe to the batch size and the dataset in use, in place.

    The recipe's values hold for ``train.reference_batch_size`` and ``train.reference_dataset_size``. The rule is the one
    that D-FINE and DEIM publish ("Customizing Batch Size"): if the batch is k times as large, learning rates are
    multiplied by k. If an epoch has r times as many iterations (r = 1 / k on the same data), both warm-ups and the averaging
    window of the EMA, ``1 / (1 - decay)``, are multiplied by r.

    Args:
        cfg: a complete config.
        iters_per_epoch: number of iterations per epoch on the data in use; None if the loader has no epochs.

    Returns:
        True if the values were scaled, False if ``train.reference_batch_size`` is None.

    Raises:
        ConfigError: if a batch size or the number of images is less than 1.
    """
    reference, images = cfg.train.reference_batch_size, cfg.train.reference_dataset_size
    size = cfg.dataloader.train.total_batch_size
    if reference is None:
        return False
    if min(reference, size, 1 if images is None else images) < 1:
        raise ConfigError(
            f"train.reference_batch_size={reference}, train.reference_dataset_size={images} and "
            f"dataloader.train.total_batch_size={size} must be at least 1"
        )
    has_epochs = images is not None and iters_per_epoch is not None
    length_factor = iters_per_epoch * reference / images if has_epochs else reference / size
    # The saved config holds the scaled values: a run that loads it must not scale them again.
    cfg.train.reference_batch_size = cfg.train.reference_dataset_size = None
    _scale_learning_rates(cfg.optimizer, size / reference)
    _scale_lengths(cfg, length_factor)
    ema = cfg.train.model_ema
    warmup = f", schedule.warmup_iters={cfg.schedule.warmup_iters}" if "schedule" in cfg else ""
    logger.info(
        f"Scaled from batch size {reference} to {size}, with {length_factor:.3g} times the iterations per epoch: "
        f"optimizer.lr={cfg.optimizer.lr:g} and its rules{warmup}, "
        f"train.model_ema.decay={ema.decay:g}, .warmup_iters={ema.warmup_iters} "
        "(train.reference_batch_size=null turns scaling off)"
    )
    return True


def _scale_learning_rates(optimizer: Any, factor: float) -> None:
    optimizer.lr *= factor
    # Optimizers of detrex's recipes have no rules: they derive all learning rates from `lr`.
    for rule in (optimizer.params.get("rules") or {}).values():
        if "lr" in rule:
            rule.lr *= factor


def _scale_lengths(cfg: Any, factor: float) -> None:
    ema, schedule = cfg.train.model_ema, cfg.get("schedule")
    for node in (schedule, ema):
        if node is not None and node.warmup_iters:
            node.warmup_iters = max(round(node.warmup_iters * factor), 1)
    ema.decay = _scale_ema_decay(ema.decay, factor)
    if schedule is not None and schedule.final_ema_decay is not None:
        schedule.final_ema_decay = _scale_ema_decay(schedule.final_ema_decay, factor)


def _scale_ema_decay(decay: float, factor: float) -> float:
    """Return the EMA decay whose averaging window is ``factor`` times as long, but at least two iterations."""
    return 1 - min((1 - decay) / factor, 0.5)
