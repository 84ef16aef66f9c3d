"""Ending a run whose metric no longer improves."""

import logging
import math
from collections.abc import Callable

from detectron2.engine import HookBase
from detectron2.utils import comm

from deim.engine.hooks.iterations import evaluates_after
from deim.engine.trainer import Trainer
from deim.errors import ConfigError

logger = logging.getLogger("detectron2.deim")


class EarlyStoppingHook(HookBase):
    """Hook that ends a run after ``patience`` evaluations in succession without an improvement.

    If the final epochs (without augmentation) have not begun yet, the run skips to them. The evaluations are then
    counted anew, and the next ``patience`` evaluations without an improvement end the run. The last weights are saved
    as ``model_final.pth``, and a run that is resumed from this checkpoint ends at once.

    Register it after the hooks that evaluate and save the best checkpoint. The main rank decides for all ranks.

    Args:
        save: called with the last iteration at the end of a run that ends early.
        metric: scalar in the event storage, such as "bbox/AP". Larger values are better.
        patience: number of evaluations, at least 1.
        min_delta: an evaluation is an improvement if it exceeds the best one by more than this, at least 0.
        eval_period: iterations between evaluations.
        final_iter: first iteration of the final epochs; None if the run has none, or must not skip to them.

    Raises:
        ConfigError: if a value is out of range, or the run has no periodic evaluations.
    """

    trainer: Trainer

    def __init__(
        self,
        save: Callable[[int], None],
        *,
        metric: str,
        patience: int,
        min_delta: float,
        eval_period: int,
        final_iter: int | None,
    ):
        if patience < 1:
            raise ConfigError(f"train.early_stopping.patience must be at least 1, got {patience}")
        if min_delta < 0:
            raise ConfigError(f"train.early_stopping.min_delta must be at least 0, got {min_delta}")
        if eval_period < 1:
            raise ConfigError("train.early_stopping.enabled needs periodic evaluations: set train.eval_period")
        self.save, self.metric, self.patience, self.min_delta = save, metric, patience, min_delta
        self.eval_period, self.final_iter = eval_period, final_iter
        self.best, self.best_iter = -math.inf, -1
        # number of evaluations since the best one
        self.evaluations = 0
        # iteration to continue with; the last iteration of a run that has ended
        self.skip_target: int | None = None
        self.last_iter: int | None = None

    def before_train(self) -> None:
        start = self.trainer.start_iter
        if self.last_iter is not None:
            logger.info(
                f"The run has ended after iteration {self.last_iter} (train.early_stopping). To train on, resume it with "
                "train.early_stopping.enabled=false"
            )
        elif self.skip_target is not None and start <= self.skip_target:
            self.trainer.skip_to(self.skip_target)

    def after_step(self) -> None:
        iteration = self.trainer.iter
        if not evaluates_after(iteration, self.eval_period, self.trainer.max_iter):
            return
        value, evaluated = self.trainer.storage.latest().get(self.metric, (-math.inf, -1))
        score = comm.all_gather(value if evaluated == iteration else None)[0]  # only the main rank has results
        if score is None:
            logger.warning(f"train.early_stopping: the evaluation has no metric {self.metric} (train.best_metric)")
            return
        is_final = self._is_final(iteration)
        if is_final and not self._is_final(iteration - self.eval_period):
            self.evaluations = 0
        self.evaluations += 1
        if score > self.best + self.min_delta:
            self.best, self.best_iter, self.evaluations = score, iteration, 0
        if self.evaluations >= self.patience:
            self._end_stage(iteration, is_final)

    def _is_final(self, iteration: int) -> bool:
        return self.final_iter is not None and iteration >= self.final_iter

    def _end_stage(self, iteration: int, is_final: bool) -> None:
        reason = (
            f"{self.metric} has not improved by more than {self.min_delta:g} in {self.evaluations} evaluations "
            f"(best: {self.best:.3f} after iteration {self.best_iter})"
        )
        if self.final_iter is not None and not is_final:
            logger.info(f"{reason}: skipping from iteration {iteration + 1} to the final epochs at {self.final_iter}")
            self.skip_target = self.final_iter
            self.trainer.skip_to(self.final_iter)
        else:
            logger.info(f"{reason}: ending the run after iteration {iteration} (train.early_stopping)")
            self.last_iter = iteration
            self.trainer.stop(iteration)

    def after_train(self) -> None:
        if self.last_iter is not None and self.trainer.iter == self.last_iter:
            self.save(self.last_iter)

    def state_dict(self) -> dict:
        names = ("best", "best_iter", "evaluations", "skip_target", "last_iter")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict) -> None:
        for name, value in state_dict.items():
            setattr(self, name, value)
        if self.last_iter is not None:
            self.trainer.stop(self.last_iter)
