"""Hooks beyond detectron2's, which let a run go on from a checkpoint as if it had never stopped."""

import json
import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from detectron2.engine import HookBase, hooks

from deim.checkpoint.run_checkpointer import RunCheckpointer, replacing

logger = logging.getLogger("detectron2.deim")


def evaluates_after(iteration: int, eval_period: int, max_iter: int) -> bool:
    """Whether detectron2 evaluates after an iteration of a run; the evaluation at its end is another."""
    following = iteration + 1
    return eval_period > 0 and following % eval_period == 0 and following != max_iter


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """detectron2's, which after ``--resume`` also deletes checkpoints from before it when their time comes."""

    def before_train(self) -> None:
        super().before_train()
        self.recent_checkpoints = self.checkpointer.numbered(before=self.trainer.start_iter)


class BestCheckpointer(hooks.BestCheckpointer):
    """detectron2's, remembering the best value across ``--resume``.

    What is known of ``model_best.pth`` stands in ``model_best.json``: ``value`` and ``iteration``. A
    checkpoint cannot hold it, being written before the evaluation of its iteration.
    """

    @property
    def _facts(self) -> Path:
        return Path(self._checkpointer.save_dir) / "model_best.json"

    def before_train(self) -> None:
        if self.trainer.start_iter > 0 and self._facts.is_file():
            facts = json.loads(self._facts.read_text(encoding="utf-8"))
            self.best_metric, self.best_iter = facts["value"], facts["iteration"]

    def _best_checking(self) -> None:
        former = self.best_iter
        super()._best_checking()
        if self.best_iter != former:
            with replacing(str(self._facts)) as file:
                file.write(json.dumps({"value": self.best_metric, "iteration": self.best_iter}).encode())


class EvaluationRecord(HookBase):
    """Makes sure that no evaluation is lost, and none done twice.

    A checkpoint is written before the evaluation of its iteration, so that nothing is lost if the evaluation fails,
    and once more after it. A run that goes on from one of the first kind does the evaluation first.

    Register it last.

    Args:
        eval_period: iterations between evaluations; 0 for none before the end.
        checkpointer: None on processes that do not save.
        metrics_file: may hold results of this evaluation already, which are cut off; None on processes that write none.
        evaluating: hooks that evaluate, and that use the results, in order.
    """

    def __init__(
        self,
        eval_period: int,
        checkpointer: RunCheckpointer | None,
        metrics_file: str | None,
        evaluating: Sequence[HookBase],
    ):
        self.eval_period, self.checkpointer, self.evaluating = eval_period, checkpointer, evaluating
        self.metrics_file = metrics_file
        self.evaluated = -1

    def _is_due(self, iteration: int) -> bool:
        return evaluates_after(iteration, self.eval_period, self.trainer.max_iter)

    def before_train(self) -> None:
        last = self.trainer.start_iter - 1
        if last < 0 or not self._is_due(last) or self.evaluated >= last:
            return
        logger.info(f"The run ended before the evaluation of iteration {last} was done: it is done now")
        if self.metrics_file is not None:
            cut_off(self.metrics_file, last)
        self.trainer.iter = self.trainer.storage.iter = last
        for hook in self.evaluating:
            hook.after_step()
        self._done(last)
        self.trainer.iter = self.trainer.storage.iter = last + 1

    def after_step(self) -> None:
        if self._is_due(self.trainer.iter):
            self._done(self.trainer.iter)

    def _done(self, iteration: int) -> None:
        self.evaluated = iteration
        if self.checkpointer is not None and self.checkpointer.has_saved_after(iteration):
            self.checkpointer.save_after(iteration)

    def state_dict(self) -> dict:
        return {"evaluated": self.evaluated}

    def load_state_dict(self, state_dict: dict) -> None:
        self.evaluated = state_dict["evaluated"]


class PeriodicWriter(hooks.PeriodicWriter):
    """detectron2's, which also writes when there are results of an evaluation: they would be lost with the run.

    Args:
        eval_period: as of :class:`EvaluationRecord`.
    """

    def __init__(self, writers: Sequence, period: int, eval_period: int):
        super().__init__(writers, period)
        self._eval_period = eval_period

    def after_step(self) -> None:
        if evaluates_after(self.trainer.iter, self._eval_period, self.trainer.max_iter):
            for writer in self._writers:
                writer.write()
        else:
            super().after_step()


# How long things took says nothing of another time.
_OF_THE_MACHINE = {"time", "data_time", "rank_data_time"}


class MetricsContinuation(HookBase):
    """Makes ``metrics.json`` of a run that went on the file of one that never stopped.

    What it says of iterations that are done again is cut off, and the latest values of what is written as a median
    over many iterations are kept in checkpoints.

    Register it after the hooks that put values at every iteration, and before the others.

    Args:
        metrics_file: may not be there yet; None on processes that write none.
        window_size: values kept of each scalar.
    """

    def __init__(self, metrics_file: str | None, window_size: int = 20):
        self.metrics_file, self.window_size = metrics_file, window_size
        self._put_always: list[str] = []
        self._kept: dict[str, dict] = {}

    def before_train(self) -> None:
        if self.metrics_file is not None and self.trainer.start_iter > 0:
            cut_off(self.metrics_file, self.trainer.start_iter)
        if self.trainer.start_iter >= self.trainer.max_iter:
            return  # they are written, and no others will come
        self._put_always = list(self._kept)
        for name, kept in self._kept.items():
            for value, iteration in kept["values"]:
                self.trainer.storage.put_scalar(name, value, smoothing_hint=kept["smooth"], cur_iter=int(iteration))

    def after_step(self) -> None:
        storage = self.trainer.storage
        self._put_always = [
            name
            for name, (_, when) in storage.latest().items()
            if when == self.trainer.iter and name not in _OF_THE_MACHINE
        ]

    def state_dict(self) -> dict:
        if not self._put_always:
            return {}
        storage = self.trainer.storage
        smooth, histories = storage.smoothing_hints(), storage.histories()
        return {
            "kept": {
                name: {"values": histories[name].values()[-self.window_size :], "smooth": smooth[name]}
                for name in self._put_always
            }
        }

    def load_state_dict(self, state_dict: dict) -> None:
        self._kept = state_dict["kept"]


def cut_off(metrics_file: str, iteration: int) -> None:
    """Take out of a ``metrics.json``, in place, what it says of an iteration and those after it, and what a kill has left
    of a line. Lines are in order but for neighbours."""
    with suppress(FileNotFoundError), open(metrics_file, "r+b") as file:
        lines = file.readlines()
        dropped = [_iteration_of(line) >= iteration for line in lines]
        first = dropped.index(True) if True in dropped else len(lines)
        file.seek(sum(map(len, lines[:first])))
        file.write(b"".join(line for line, drop in zip(lines[first:], dropped[first:], strict=True) if not drop))
        file.truncate()


def _iteration_of(line: bytes) -> float:
    """What a line tells of; infinity where it is not whole."""
    try:
        return json.loads(line)["iteration"] if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
