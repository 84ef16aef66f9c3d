"""Standard training hooks."""

import datetime
import logging
import math
import operator
import time
from collections import Counter

import detectron2.utils.comm as comm
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.solver import LRMultiplier
from detectron2.solver import LRScheduler as _TorchScheduler
from detectron2.utils.events import EventWriter
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler
from fvcore.common.timer import Timer

from .train_loop import HookBase

__all__ = ["BestCheckpointer", "EvalHook", "IterationTimer", "LRScheduler", "PeriodicCheckpointer", "PeriodicWriter"]


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """Hook that saves a checkpoint every ``period`` iterations and at the end."""

    def before_train(self):
        self.max_iter = self.trainer.max_iter

    def after_step(self):
        self.step(self.trainer.iter)


class IterationTimer(HookBase):
    """Hook that writes the seconds of each iteration after the warm-up to the storage and logs the speed at the end."""

    def __init__(self, warmup_iter=3):
        self._warmup_iter = warmup_iter
        self._step, self._steps = Timer(), Timer()
        self._start = time.perf_counter()

    def before_train(self):
        self._restart()
        self._steps.pause()

    def _restart(self):
        self._start = time.perf_counter()
        self._steps.reset()

    def before_step(self):
        self._step.reset()
        self._steps.resume()

    def after_step(self):
        num_iterations = self.trainer.storage.iter - self.trainer.start_iter + 1
        if num_iterations >= self._warmup_iter:
            self.trainer.storage.put_scalars(time=self._step.seconds())
        else:
            self._restart()
        self._steps.pause()

    def after_train(self):
        logger = logging.getLogger(__name__)
        total, in_steps = time.perf_counter() - self._start, self._steps.seconds()
        counted = self.trainer.storage.iter + 1 - self.trainer.start_iter - self._warmup_iter
        if counted > 0 and in_steps > 0:
            logger.info(
                f"Overall training speed: {counted} iterations in {_clock(in_steps)} ({in_steps / counted:.4f} s / it)"
            )
        logger.info(f"Total training time: {_clock(total)} ({_clock(total - in_steps)} on hooks)")


class PeriodicWriter(HookBase):
    """Hook that calls event writers every ``period`` iterations and at the end."""

    def __init__(self, writers, period=20):
        """Create the hook.

        Args:
            writers: list of EventWriter.
            period: number of iterations between writes.

        Raises:
            AssertionError: if an entry of ``writers`` is not an EventWriter.
        """
        for writer in writers:
            if not isinstance(writer, EventWriter):
                raise AssertionError(f"Expected an EventWriter, got {writer!r}")
        self._writers, self._period = writers, period

    def after_step(self):
        iteration = self.trainer.iter + 1
        if iteration % self._period == 0 or iteration == self.trainer.max_iter:
            self._write()

    def after_train(self):
        # Each writer closes before the next one writes, as in detectron2.
        for writer in self._writers:
            writer.write()
            writer.close()

    def _write(self):
        for writer in self._writers:
            writer.write()


class LRScheduler(HookBase):
    """Hook that steps the scheduler after each iteration and writes the learning rate to the storage."""

    def __init__(self, optimizer=None, scheduler=None):
        """Create the hook.

        Args:
            optimizer: a torch optimizer; defaults to the trainer's.
            scheduler: a torch scheduler, or an fvcore ParamScheduler as multiplier of the initial learning rates;
                defaults to the trainer's.
        """
        self._optimizer, self._scheduler = optimizer, scheduler

    @property
    def scheduler(self):
        return self._scheduler or self.trainer.scheduler

    def before_train(self):
        self._optimizer = self._optimizer or self.trainer.optimizer
        if isinstance(self.scheduler, ParamScheduler):
            self._scheduler = LRMultiplier(
                self._optimizer, self.scheduler, self.trainer.max_iter, last_iter=self.trainer.iter - 1
            )
        self._best_param_group_id = LRScheduler.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer):
        """Return the index of the parameter group whose learning rate is reported.

        This is the group with the most parameters. If all groups have one parameter, it is the first group with the
        most common learning rate.
        """
        groups = optimizer.param_groups
        sizes = [len(group["params"]) for group in groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in groups]
        return rates.index(Counter(rates).most_common(1)[0][0])

    def after_step(self):
        rate = self._optimizer.param_groups[self._best_param_group_id]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self):
        return self.scheduler.state_dict() if isinstance(self.scheduler, _TorchScheduler) else {}

    def load_state_dict(self, state_dict):
        if isinstance(self.scheduler, _TorchScheduler):
            logging.getLogger(__name__).info("Loading scheduler from state_dict ...")
            self.scheduler.load_state_dict(state_dict)


def _evaluates_after(hook_period: int, trainer) -> bool:
    """Return True if a periodic evaluation follows the current iteration. The last iteration is handled separately."""
    num_iterations = trainer.iter + 1
    return hook_period > 0 and num_iterations % hook_period == 0 and num_iterations != trainer.max_iter


class EvalHook(HookBase):
    """Hook that evaluates every ``eval_period`` iterations and at the end, and writes the results to the storage."""

    def __init__(self, eval_period, eval_function, eval_after_train=True):
        """Create the hook.

        Args:
            eval_period: number of iterations between evaluations; 0 evaluates only at the end.
            eval_function: function that returns a nested dict of numbers, or None on ranks without results.
            eval_after_train: whether to evaluate at the end.
        """
        self._period, self._func, self._eval_after_train = eval_period, eval_function, eval_after_train

    def _do_eval(self):
        results = self._func()
        if results:
            if not isinstance(results, dict):
                raise AssertionError(f"Eval function must return a dict. Got {results!r} instead.")
            numbers = flatten_results_dict(results)
            for name, value in numbers.items():
                try:
                    float(value)
                except Exception as error:
                    raise ValueError(
                        f"[EvalHook] eval_function should return a nested dict of float. Got '{name}: {value}' instead."
                    ) from error
            self.trainer.storage.put_scalars(**numbers, smoothing_hint=False)
        comm.synchronize()  # evaluation on rank 0 may take long

    def after_step(self):
        if _evaluates_after(self._period, self.trainer):
            self._do_eval()

    def after_train(self):
        # Do not evaluate after a failure.
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._do_eval()
        del self._func  # the function may reference the trainer


class BestCheckpointer(HookBase):
    """Hook that saves ``<file_prefix>.pth`` whenever a metric in the storage improves.

    Register it after the :class:`EvalHook` of the same period.
    """

    def __init__(self, eval_period, checkpointer: Checkpointer, val_metric, mode="max", file_prefix="model_best"):
        """Create the hook.

        Args:
            eval_period: period of the EvalHook.
            checkpointer: the checkpointer that saves the file.
            val_metric: name of the metric, such as "bbox/AP50".
            mode: "max" or "min", for metrics to maximize or to minimize.
            file_prefix: file name without suffix.

        Raises:
            AssertionError: if ``mode`` is unknown.
        """
        if mode not in ("max", "min"):
            raise AssertionError(f'Mode "{mode}" to `BestCheckpointer` is unknown. It should be "max" or "min".')
        self._compare = operator.gt if mode == "max" else operator.lt
        self._period, self._checkpointer = eval_period, checkpointer
        self._val_metric, self._file_prefix = val_metric, file_prefix
        self.best_metric = self.best_iter = None
        self._logger = logging.getLogger(__name__)

    def _best_checking(self):
        latest_value = self.trainer.storage.latest().get(self._val_metric)
        if latest_value is None:
            self._logger.warning(
                f"Given val metric {self._val_metric} does not seem to be computed/stored."
                "Will not be checkpointing based on it."
            )
            return
        value, iteration = latest_value
        latest, best = f"latest eval score for {self._val_metric} is {value:0.5f}", self.best_metric
        if best is None:
            if math.isfinite(value):
                self._save(value, iteration)
                self._logger.info(f"Saved first model at {value:0.5f} @ {iteration} steps")
        elif self._compare(value, best):
            message = f"better than last best score {best:0.5f} @ iteration {self.best_iter}."
            self._save(value, iteration)
            self._logger.info(f"Saved best model as {latest}, {message}")
        else:
            self._logger.info(
                f"Not saving as {latest}, not better than best score {best:0.5f} @ iteration {self.best_iter}."
            )

    def _save(self, value: float, iteration: int) -> None:
        self._checkpointer.save(self._file_prefix, iteration=iteration)
        # As in detectron2, an infinite value is saved, but does not become the best metric.
        if math.isfinite(value):
            self.best_metric, self.best_iter = value, iteration

    def after_step(self):
        if _evaluates_after(self._period, self.trainer):
            self._best_checking()

    def after_train(self):
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._best_checking()
