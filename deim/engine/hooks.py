"""Hooks beyond detectron2's, which let a run go on from a checkpoint as if it had never stopped."""

import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from detectron2.engine import HookBase, TrainerBase, hooks

from deim.checkpoint.run_checkpointer import RunCheckpointer, replacing

logger = logging.getLogger("detectron2.deim")


def evaluates_after(iteration: int, eval_period: int, max_iter: int) -> bool:
    """Whether detectron2 evaluates after an iteration of a run; the evaluation at its end is another."""
    following = iteration + 1
    return eval_period > 0 and following % eval_period == 0 and following != max_iter


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """Like detectron2's, but ``max_to_keep`` also applies to checkpoints written before ``--resume``.

    This needs a :class:`RunCheckpointer`; with another checkpointer it is detectron2's.
    """

    def before_train(self) -> None:
        super().before_train()
        if isinstance(self.checkpointer, RunCheckpointer):
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


class PeriodicWriter(hooks.PeriodicWriter):
    """detectron2's, which also writes when there are results of an evaluation: they would be lost with the run.

    Args:
        eval_period: as of :class:`EvaluationRecord`.
        metrics_file: where one of the writers writes JSON; may not be there yet.

    Attributes:
        written: the iteration at whose end it last wrote; -1 for none.
    """

    def __init__(self, writers: Sequence, period: int, eval_period: int, metrics_file: str):
        super().__init__(writers, period)
        self._eval_period, self.metrics_file = eval_period, metrics_file
        self.written = -1

    def after_step(self) -> None:
        if self._is_due(self.trainer.iter) or self._follows_evaluation(self.trainer.iter):
            for writer in self._writers:
                writer.write()
            self.written = self.trainer.iter

    def go_on_from(self, written: int) -> None:
        """Cut off all that was written since an iteration."""
        cut_off(self.metrics_file, written + 1)
        self.written = written

    def misses(self, iteration: int) -> bool:
        """Whether nothing was written at the end of an iteration, though it was due. After evaluations, that is for
        :class:`EvaluationRecord` to see."""
        return self.written < iteration and self._is_due(iteration) and not self._follows_evaluation(iteration)

    def _is_due(self, iteration: int) -> bool:
        return (iteration + 1) % self._period == 0 or iteration + 1 == self.trainer.max_iter

    def _follows_evaluation(self, iteration: int) -> bool:
        return evaluates_after(iteration, self._eval_period, self.trainer.max_iter)


class EvaluationRecord(HookBase):
    """Makes sure that no evaluation is lost, and none done twice.

    A checkpoint is written before the evaluation of its iteration, so that nothing is lost if the evaluation fails,
    and once more after it. A run that goes on from one of the first kind does the evaluation first.

    Register it last.

    Args:
        eval_period: iterations between evaluations; 0 for none before the end.
        checkpointer: None on processes that do not save.
        evaluating: hooks that evaluate, and that use the results, in order.
    """

    def __init__(
        self,
        eval_period: int,
        checkpointer: RunCheckpointer | None,
        evaluating: Sequence[HookBase],
    ):
        self.eval_period, self.checkpointer, self.evaluating = eval_period, checkpointer, evaluating
        self.evaluated = -1

    def _is_due(self, iteration: int) -> bool:
        return evaluates_after(iteration, self.eval_period, self.trainer.max_iter)

    def before_train(self) -> None:
        last = self.trainer.start_iter - 1
        if last < 0 or not self._is_due(last) or self.evaluated >= last:
            return
        logger.info(f"The run ended before the evaluation of iteration {last} was done: it is done now")
        with at_iteration(self.trainer, last):
            for hook in self.evaluating:
                hook.after_step()
            self._done(last)

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


# How long things took says nothing of another time.
_OF_THE_MACHINE = {"time", "data_time", "rank_data_time"}


class MetricsContinuation(HookBase):
    """Makes ``metrics.json`` of a run that went on the file of one that never stopped.

    What was written since a checkpoint is cut off. Checkpoints keep the latest values of what is written as a median over
    many iterations, and what has not been written yet: a line that was due at the end of their iteration, but comes
    after them, is written when the run goes on.

    Register it after the hooks that put values at every iteration, and before the others.

    Args:
        writing: None on processes that do not write.
        window_size: values kept of each scalar.
    """

    def __init__(self, writing: PeriodicWriter | None, window_size: int = 20):
        self.writing, self.window_size = writing, window_size
        self._put_always: list[str] = []
        self._kept: dict[str, dict] = {}
        self._written: int | None = None

    def before_train(self) -> None:
        last, writing = self.trainer.start_iter - 1, self.writing
        if last < 0:
            return
        if writing is not None:
            writing.go_on_from(last if self._written is None else self._written)
        is_missing = writing is not None and writing.misses(last)
        if last + 1 >= self.trainer.max_iter and not is_missing:
            return  # they are written, and no others will come
        self._restore()
        if writing is not None and is_missing:
            with at_iteration(self.trainer, last):
                writing.after_step()

    def _restore(self) -> None:
        self._put_always = list(self._kept)
        for name, kept in self._kept.items():
            for value, iteration in kept["values"]:
                self.trainer.storage.put_scalar(name, value, smoothing_hint=kept["smooth"], cur_iter=int(iteration))

    def after_step(self) -> None:
        self._put_always = self._put_since(self.trainer.iter - 1)

    def state_dict(self) -> dict:
        written = math.inf if self.writing is None else self.writing.written
        names = dict.fromkeys([*self._put_always, *self._put_since(written)])
        storage = self.trainer.storage
        smooth, histories = storage.smoothing_hints(), storage.histories()
        return {
            "kept": {
                # Of what is not smoothed, only the latest value is ever written.
                name: {
                    "values": histories[name].values()[-self.window_size if smooth[name] else -1 :],
                    "smooth": smooth[name],
                }
                for name in names
            },
            "written": written,
        }

    def _put_since(self, iteration: float) -> list[str]:
        """Scalars with a value of a later iteration."""
        latest = self.trainer.storage.latest()
        return [name for name, (_, when) in latest.items() if when > iteration and name not in _OF_THE_MACHINE]

    def load_state_dict(self, state_dict: dict) -> None:
        # checkpoints of earlier versions do not say what was written
        self._kept, self._written = state_dict["kept"], state_dict.get("written")


def cut_off(metrics_file: str, iteration: int) -> None:
    """Take out of a ``metrics.json``, in place, what it says of an iteration and those after it, and what a kill has left
    of a line. Lines are in order but for neighbors."""
    with suppress(FileNotFoundError), open(metrics_file, "r+b") as file:
        lines = file.readlines()
        dropped = [_iteration_of(line) >= iteration for line in lines]
        first = dropped.index(True) if True in dropped else len(lines)
        file.seek(sum(map(len, lines[:first])))
        file.write(b"".join(line for line, drop in zip(lines[first:], dropped[first:], strict=True) if not drop))
        file.truncate()


@contextmanager
def at_iteration(trainer: TrainerBase, iteration: int) -> Iterator[None]:
    """The trainer, and what it stores, are at the end of an iteration that it has done before."""
    present = trainer.iter
    trainer.iter = trainer.storage.iter = iteration
    yield
    trainer.iter = trainer.storage.iter = present


def _iteration_of(line: bytes) -> float:
    """What a line tells of; infinity where it is not whole."""
    try:
        return json.loads(line)["iteration"] if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
