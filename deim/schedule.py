"""Training schedule in epochs, and its learning rate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from fvcore.common.param_scheduler import ParamScheduler

from deim.errors import ConfigError

WARMUPS = {"linear": 1, "quadratic": 2}


class Stage(Enum):
    """Augmentation stages of training images (DEIM, section 4.1; the paper does not name them)."""

    PLAIN = "flip and resize"
    DENSE = "Dense O2O: mosaic, or zoom-out and crop; color distortion; mixup"
    STRONG = "zoom-out and crop; color distortion"
    FINAL = "flip and resize, at one scale"


@dataclass(frozen=True)
class Schedule:
    """Schedule of a run: learning rate, augmentation stages, evaluation and checkpoint periods.

    Attributes:
        epochs: number of epochs of the run.
        warmup_iters: number of iterations in which the learning rate rises from zero.
        warmup: "linear" or "quadratic".
        flat_epochs: number of epochs, including warm-up, before the learning rate starts to fall.
        no_aug_epochs: number of epochs at the end with the lowest learning rate and in the augmentation
            stage FINAL, which only flips and resizes.
        dense_epochs: (start, end) of Dense O2O; the end is exclusive. Before it, images are only flipped and resized;
            after it, they are augmented individually.
        strong_end_epoch: first epoch after the augmentation stage STRONG; from this epoch on, images are only flipped
            and resized. None continues STRONG until the stage FINAL.
        lr_gamma: lowest learning rate relative to the base; 1 keeps the learning rate constant after warm-up, unless
            ``drop_epochs`` is set.
        drop_epochs: epochs at whose start the learning rate falls to a tenth (DETR's step schedule), instead of
            flat_epochs and lr_gamma.
        final_from_best: start the epochs without augmentation from the best weights so far.
        final_restarts: start these epochs again after each of their evaluations that does not exceed the best result. The
            official code of EdgeCrafter does not.
        final_ema_decay: EMA decay in the epochs without augmentation; None keeps the previous decay. The official code
            intends this change, but its EMA keeps the decay it was constructed with.
        eval_epochs: number of epochs between evaluations.
        checkpoint_epochs: number of epochs between checkpoints.

    Raises:
        ConfigError: if a value is invalid or values contradict each other.
    """

    epochs: int
    warmup_iters: int = 0
    warmup: str = "quadratic"
    flat_epochs: int = 0
    no_aug_epochs: int = 0
    lr_gamma: float = 1.0
    dense_epochs: tuple[int, int] = (0, 0)
    strong_end_epoch: int | None = None
    drop_epochs: Sequence[int] = ()
    final_from_best: bool = False
    final_restarts: bool = True
    final_ema_decay: float | None = None
    eval_epochs: int = 1
    checkpoint_epochs: int = 1

    def __post_init__(self) -> None:
        if self.warmup not in WARMUPS:
            raise ConfigError(f"schedule.warmup={self.warmup!r} is not valid; choose one of {', '.join(WARMUPS)}")
        for name in ("epochs", "eval_epochs", "checkpoint_epochs"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ConfigError(f"schedule.{name} must be an integer of at least 1, got {getattr(self, name)}")
        if self.lr_gamma != 1 and self.flat_epochs + self.no_aug_epochs > self.epochs:
            raise ConfigError(
                f"schedule.flat_epochs={self.flat_epochs} and no_aug_epochs={self.no_aug_epochs} "
                f"do not fit in epochs={self.epochs}"
            )
        if self.drop_epochs and self.lr_gamma != 1:
            raise ConfigError(
                f"schedule.drop_epochs={list(self.drop_epochs)} and lr_gamma={self.lr_gamma}: "
                "use either the step schedule or the cosine schedule: set drop_epochs=[] or lr_gamma=1"
            )
        if self.final_ema_decay is not None and not 0 < self.final_ema_decay < 1:
            raise ConfigError(f"schedule.final_ema_decay must be between 0 and 1, got {self.final_ema_decay}")
        if self.final_ema_decay is not None and not self.final_from_best:
            raise ConfigError("schedule.final_ema_decay requires schedule.final_from_best=True")
        if not 0 <= self.dense_epochs[0] <= self.dense_epochs[1]:
            raise ConfigError(
                f"schedule.dense_epochs must be [start, end] with 0 <= start <= end, got {list(self.dense_epochs)}"
            )
        if self.strong_end_epoch is not None and self.strong_end_epoch < self.dense_epochs[1]:
            raise ConfigError(
                f"schedule.strong_end_epoch={self.strong_end_epoch} must not precede the end of "
                f"dense_epochs={list(self.dense_epochs)}"
            )

    @property
    def final_epoch(self) -> int:
        """Index of the first epoch without augmentation; ``epochs`` if all epochs have augmentation."""
        return self.epochs - self.no_aug_epochs

    def stage(self, epoch: int) -> Stage:
        """Return the augmentation stage of an epoch, counted from 0."""
        if epoch >= self.final_epoch:
            return Stage.FINAL
        is_after_strong = self.strong_end_epoch is not None and epoch >= self.strong_end_epoch
        if epoch < self.dense_epochs[0] or is_after_strong:
            return Stage.PLAIN
        return Stage.DENSE if epoch < self.dense_epochs[1] else Stage.STRONG

    def learning_rate(self, iteration: float, max_iter: int) -> float:
        """Return the multiplier of the base learning rate at ``iteration`` of ``max_iter``.

        DEIM's flat-cosine schedule, after RTMDet, has four phases: warm-up, flat, cosine, lowest value. The step
        schedule has a warm-up and steps.
        Epochs are spread evenly over ``max_iter``, so a shortened run passes through all phases.
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
        # `where` is iteration / max_iter: undo its rounding, so that phases start at the exact iteration.
        return self.schedule.learning_rate(round(where * self.max_iter, 6), self.max_iter)
