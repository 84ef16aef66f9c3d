"""Scaling of learning rates, EMA decay and warm-ups to the batch size and the dataset in use."""

import logging
from typing import Any

from omegaconf import OmegaConf

from deim.errors import ConfigError

logger = logging.getLogger("detectron2.deim")

# Value of ``dataloader.train.total_batch_size`` that lets the run choose it; see :mod:`deim.engine.auto_batch_size`.
AUTO = "auto"
BATCH_SIZE_KEY = "dataloader.train.total_batch_size"
# Minimum warm-up of runs from random weights, in iterations.
RANDOM_WARMUP_ITERS = 200
_WARMUP_KEY = "schedule.warmup_iters"


def scale_to_batch_size(cfg: Any, iters_per_epoch: int | None, from_random_weights: bool = False) -> bool:
    """Scale the hyperparameters of a recipe to the batch size and the dataset in use, in place.

    The recipe's values hold for ``train.reference_batch_size`` and ``train.reference_dataset_size``. The rule is the one
    that D-FINE and DEIM publish ("Customizing Batch Size"): if the batch is k times as large, learning rates are
    multiplied by k. If an epoch has r times as many iterations (r = 1 / k on the same data), both warm-ups and the averaging
    window of the EMA, ``1 / (1 - decay)``, are multiplied by r. The keys in ``train.unscaled_keys`` keep their values.

    Runs from random weights differ in three points: smaller batches do not lower the learning rates; the backbone has the
    learning rate of the other parts, since it is not pretrained; and the warm-up has at least ``RANDOM_WARMUP_ITERS``
    iterations, or a quarter of the run.

    Args:
        cfg: a complete config.
        iters_per_epoch: number of iterations per epoch on the data in use; None if the loader has no epochs.
        from_random_weights: whether no part of the model is pretrained.

    Returns:
        True if the values were scaled, False if ``train.reference_batch_size`` is None.

    Raises:
        ConfigError: if a batch size or the number of images is less than 1.
    """
    reference, images = cfg.train.reference_batch_size, cfg.train.reference_dataset_size
    if reference is None:
        return False
    size = cfg.dataloader.train.total_batch_size
    if min(reference, size, 1 if images is None else images) < 1:
        raise ConfigError(
            f"train.reference_batch_size={reference}, train.reference_dataset_size={images} and "
            f"dataloader.train.total_batch_size={size} must be at least 1"
        )
    has_epochs = images is not None and iters_per_epoch is not None
    length_factor = iters_per_epoch * reference / images if has_epochs else reference / size
    if from_random_weights:
        values = _random_start_learning_rates(cfg.optimizer, max(size / reference, 1.0))
    else:
        values = _scaled_learning_rates(cfg.optimizer, size / reference)
    values |= _scaled_lengths(cfg, length_factor)
    if from_random_weights and iters_per_epoch is not None and _WARMUP_KEY in values:
        minimum = min(RANDOM_WARMUP_ITERS, cfg.schedule.epochs * iters_per_epoch // 4)
        values[_WARMUP_KEY] = max(values[_WARMUP_KEY], minimum)
    unscaled = [key for key in values if is_unscaled(cfg, key)]
    for key, value in values.items():
        if key not in unscaled:
            OmegaConf.update(cfg, key, value)
    # The saved config holds the scaled values: a run that loads it must not scale them again.
    cfg.train.reference_batch_size = cfg.train.reference_dataset_size = None
    cfg.train.unscaled_keys = []
    if has_epochs and "iterations" in cfg.train:
        cfg.train.iterations.images = iters_per_epoch * size  # the dataset that the scaled values hold for
    logger.info(
        f"Scaled from batch size {reference} to {size}, with {length_factor:.3g} times the iterations per epoch: "
        + ", ".join(f"{key}={value:.6g}" for key, value in values.items() if key not in unscaled)
        + (f"; not scaled, because they are set: {', '.join(unscaled)}" if unscaled else "")
        + " (train.reference_batch_size=null turns scaling off)"
    )
    return True


def scaled_learning_rates(cfg: Any) -> dict[str, float]:
    """Return the learning rates that :func:`scale_to_batch_size` would set, by their keys; none if it scales nothing."""
    reference, size = cfg.train.reference_batch_size, cfg.dataloader.train.total_batch_size
    if reference is None or size == AUTO:
        return {}
    rates = _scaled_learning_rates(cfg.optimizer, size / reference)
    return {key: rate for key, rate in rates.items() if not is_unscaled(cfg, key)}


def scaled_length_keys(cfg: Any) -> list[str]:
    """Return the keys that :func:`scale_to_batch_size` would scale to the number of iterations per epoch."""
    if cfg.train.reference_batch_size is None:
        return []
    return [key for key in _scaled_lengths(cfg, 1.0) if not is_unscaled(cfg, key)]


def is_unscaled(cfg: Any, key: str) -> bool:
    """Return whether a key keeps its value, because it is in ``train.unscaled_keys``."""
    return any(key == unscaled or key.startswith(f"{unscaled}.") for unscaled in cfg.train.unscaled_keys)


def _scaled_learning_rates(optimizer: Any, factor: float) -> dict[str, float]:
    rates = {"optimizer.lr": optimizer.lr * factor}
    # Optimizers of detrex's recipes have no rules: they derive all learning rates from `lr`.
    for name, rule in (optimizer.params.get("rules") or {}).items():
        # An interpolated learning rate follows the one that it refers to.
        if "lr" in rule and not OmegaConf.is_interpolation(rule, "lr"):
            rates[f"optimizer.params.rules.{name}.lr"] = rule.lr * factor
    return rates


def _random_start_learning_rates(optimizer: Any, factor: float) -> dict[str, float]:
    """Return the scaled learning rates, where those of the backbone are at least that of the other parts."""
    rates = _scaled_learning_rates(optimizer, factor)
    return {key: max(rate, rates["optimizer.lr"]) if "backbone" in key else rate for key, rate in rates.items()}


def _scaled_lengths(cfg: Any, factor: float) -> dict[str, float]:
    ema, schedule = cfg.train.model_ema, cfg.get("schedule")
    values: dict[str, float] = {}
    for path, node in (("schedule", schedule), ("train.model_ema", ema)):
        if node is not None and node.warmup_iters:
            values[f"{path}.warmup_iters"] = max(round(node.warmup_iters * factor), 1)
    values["train.model_ema.decay"] = _scale_ema_decay(ema.decay, factor)
    if schedule is not None and schedule.final_ema_decay is not None:
        values["schedule.final_ema_decay"] = _scale_ema_decay(schedule.final_ema_decay, factor)
    return values


def _scale_ema_decay(decay: float, factor: float) -> float:
    """Return the EMA decay whose averaging window is ``factor`` times as long, but at least two iterations."""
    return 1 - min((1 - decay) / factor, 0.5)
