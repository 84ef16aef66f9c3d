"""The schedule of a run, in epochs, and the learning rate that follows from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from fvcore.common.param_scheduler import ParamScheduler

from deim.errors import ConfigError

WARMUPS = {"linear": 1, "quadratic": 2}


class Stage(Enum):
    """How training images are augmented (DEIM, section 4.1; the names are ours)."""

    PLAIN = "flip and resize"
    DENSE = "Dense O2O: mosaic or zoom-out and crop, colors, mixup"
    STRONG = "zoom-out and crop, colors"
    FINAL = "flip and resize, at one scale"


@dataclass(frozen=True)
class Schedule:
    """Everything that happens at a certain time of a run.

    Attributes:
        epochs: length of the run.
        warmup_iters: iterations in which the learning rate rises from zero.
        warmup: "linear" or "quadratic".
        flat_epochs: epochs, warm-up included, until the learning rate starts to fall.
        no_aug_epochs: epochs at the end with the lowest learning rate and without augmentation.
        dense_epochs: the first epoch with Dense O2O and the first one after it. Before it images are
            plain, after it they are augmented one by one.
        lr_gamma: the lowest learning rate relative to the base.
        drop_epochs: the learning rate falls to a tenth at the start of each of these (DETR's step schedule)
            in place of flat_epochs and lr_gamma.
        final_from_best: the epochs without augmentation start from the best weights before them.
        final_ema_decay: and average with this decay from there on; None keeps the one before. The official
            code means to change it, but its averaging goes on with the one that it was built with.
        eval_epochs: epochs between evaluations.
        checkpoint_epochs: epochs between checkpoints.

    Raises:
        ConfigError: the values contradict each other.
    """

    epochs: int
    warmup_iters: int = 0
    warmup: str = "quadratic"
    flat_epochs: int = 0
    no_aug_epochs: int = 0
    lr_gamma: float = 1.0
    dense_epochs: tuple[int, int] = (0, 0)
    drop_epochs: Sequence[int] = ()
    final_from_best: bool = False
    final_ema_decay: float | None = None
    eval_epochs: int = 1
    checkpoint_epochs: int = 1

    def __post_init__(self) -> None:
        if self.warmup not in WARMUPS:
            raise ConfigError(f"schedule.warmup={self.warmup!r}; choose one of {', '.join(WARMUPS)}")
        for name in ("epochs", "eval_epochs", "checkpoint_epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"schedule.{name} must be at least 1, got {getattr(self, name)}")
        if self.lr_gamma != 1 and self.flat_epochs + self.no_aug_epochs > self.epochs:
            raise ConfigError(
                f"schedule.flat_epochs={self.flat_epochs} and no_aug_epochs={self.no_aug_epochs} "
                f"do not fit in epochs={self.epochs}"
            )
        if self.drop_epochs and self.lr_gamma != 1:
            raise ConfigError(
                f"schedule.drop_epochs={list(self.drop_epochs)} and lr_gamma={self.lr_gamma}: "
                "the learning rate falls either in steps or along a cosine; empty the one or set the other to 1"
            )
        if self.final_ema_decay is not None and not 0 < self.final_ema_decay < 1:
            raise ConfigError(f"schedule.final_ema_decay must be between 0 and 1, got {self.final_ema_decay}")
        if self.final_ema_decay is not None and not self.final_from_best:
            raise ConfigError("schedule.final_ema_decay is set, but not schedule.final_from_best, which it belongs to")
        if not 0 <= self.dense_epochs[0] <= self.dense_epochs[1]:
            raise ConfigError(f"schedule.dense_epochs must ascend from at least 0, got {list(self.dense_epochs)}")

    @property
    def final_epoch(self) -> int:
        """The first epoch without augmentation, ``epochs`` if there is none."""
        return self.epochs - self.no_aug_epochs

    def stage(self, epoch: int) -> Stage:
        """How images of this epoch (counted from 0) are augmented."""
        if epoch >= self.final_epoch:
            return Stage.FINAL
        if epoch < self.dense_epochs[0]:
            return Stage.PLAIN
        return Stage.DENSE if epoch < self.dense_epochs[1] else Stage.STRONG

    def learning_rate(self, iteration: float, max_iter: int) -> float:
        """Multiplier of the base learning rate at ``iteration`` of ``max_iter``.

        Warm-up, flat, cosine, then the lowest value (DEIM's flat-cosine schedule, after RTMDet), or
        warm-up and steps. The epochs are spread over ``max_iter``, so a shortened run goes through all
        phases.
        """
        if iteration < self.warmup_iters:
            return (iteration / self.warmup_iters) ** WARMUPS[self.warmup]
        per_epoch = max_iter / self.epochs
        if self.drop_epochs:
            return 0.1 ** sum(iteration >= epoch * per_epoch for epoch in self.drop_epochs)
        flat, end = self.flat_epochs * per_epoch, max_iter - self.no_aug_epochs * per_epoch
        if iteration <= flat or self.lr_gamma == 1:
            return 1.0
        if iteration >= end:
            return self.lr_gamma
        cosine = 0.5 * (1 + math.cos(math.pi * (iteration - flat) / (end - flat)))
        return self.lr_gamma + (1 - self.lr_gamma) * cosine


class LearningRate(ParamScheduler):
    """A :class:`Schedule`'s learning rate as detectron2's ``lr_multiplier``."""

    def __init__(self, schedule: Schedule, max_iter: int):
        self.schedule, self.max_iter = schedule, max_iter

    def __call__(self, where: float) -> float:
        # where is iteration / max_iter: undo the rounding, so that phases start on time.
        return self.schedule.learning_rate(round(where * self.max_iter, 6), self.max_iter)
