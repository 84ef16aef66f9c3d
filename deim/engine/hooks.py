"""Hooks beyond detectron2's: a resumed run is identical to an uninterrupted one."""

import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from detectron2.engine import HookBase, TrainerBase, hooks

from deim.checkpoint.run_checkpointer import RunCheckpointer, atomic_write

logger = logging.getLogger("detectron2.deim")


def evaluates_after(iteration: int, eval_period: int, max_iter: int) -> bool:
    """Return whether detectron2 evaluates after an iteration, not counting the evaluation at the end of the run."""
    following = iteration + 1
    return eval_period > 0 and following % eval_period == 0 and following != max_iter


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """Like detectron2's, but ``max_to_keep`` also applies to checkpoints written before ``--resume``.

    With a checkpointer other than :class:`RunCheckpointer`, it behaves like detectron2's.
    """

    def before_train(self) -> None:
        super().before_train()
        if isinstance(self.checkpointer, RunCheckpointer):
            self.recent_checkpoints = self.checkpointer.numbered_checkpoints(before=self.trainer.start_iter)


class BestCheckpointer(hooks.BestCheckpointer):
    """detectron2's hook, remembering the best value across ``--resume``.

    ``model_best.json`` stores ``value`` and ``iteration`` of ``model_best.pth``. A checkpoint cannot store them, as it
    is written before the evaluation of its iteration.
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
            with atomic_write(str(self._facts)) as file:
                file.write(json.dumps({"value": self.best_metric, "iteration": self.best_iter}).encode())


class PeriodicWriter(hooks.PeriodicWriter):
    """detectron2's hook, which also writes after evaluations so that their results are not lost if the run is killed.

    Args:
        eval_period: see :class:`EvaluationRecord`.
        metrics_file: JSON file of one of the writers; need not exist yet.

    Attributes:
        written: last iteration after which metrics were written; -1 for none.
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
        """Remove all metrics written after iteration ``written``."""
        cut_off(self.metrics_file, written + 1)
        self.written = written

    def misses(self, iteration: int) -> bool:
        """Return whether metrics were due but not written after an iteration.

        Iterations with an evaluation are excluded: :class:`EvaluationRecord` handles them.
        """
        return self.written < iteration and self._is_due(iteration) and not self._follows_evaluation(iteration)

    def _is_due(self, iteration: int) -> bool:
        return (iteration + 1) % self._period == 0 or iteration + 1 == self.trainer.max_iter

    def _follows_evaluation(self, iteration: int) -> bool:
        return evaluates_after(iteration, self._eval_period, self.trainer.max_iter)


class EvaluationRecord(HookBase):
    """Hook that makes sure every evaluation is done exactly once.

    A checkpoint is written before the evaluation of its iteration, so that it exists even if the evaluation fails, and
    again afterwards. A run resumed from the earlier version of the checkpoint repeats the evaluation first.

    Register it last.

    Args:
        eval_period: iterations between evaluations; 0 to evaluate only at the end.
        checkpointer: None on ranks that do not save.
        evaluating: hooks that evaluate or use the results, in order.
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
        logger.info(f"The run was interrupted before the evaluation of iteration {last}: evaluating now")
        with at_iteration(self.trainer, last):
            for hook in self.evaluating:
                hook.after_step()
            self._done(last)

    def after_step(self) -> None:
        if self._is_due(self.trainer.iter):
            self._done(self.trainer.iter)

    def _done(self, iteration: int) -> None:
        self.evaluated = iteration
        if self.checkpointer is not None and self.checkpointer.has_iteration(iteration):
            self.checkpointer.save_iteration(iteration)

    def state_dict(self) -> dict:
        return {"evaluated": self.evaluated}

    def load_state_dict(self, state_dict: dict) -> None:
        self.evaluated = state_dict["evaluated"]


# Timings are not restored: those of an earlier process do not describe this one.
_OF_THE_MACHINE = {"time", "data_time", "rank_data_time"}


class MetricsContinuation(HookBase):
    """Hook that makes ``metrics.json`` of a resumed run identical to that of an uninterrupted one.

    Lines written after the checkpoint are removed. Checkpoints store the latest values of scalars that are written as
    a median over many iterations, and values not written yet: a line that was due at the checkpoint's iteration, but
    is written after the checkpoint, is written on resume.

    Register it after the hooks that put scalars at every iteration, and before all others.

    Args:
        writing: None on ranks that do not write.
        window_size: number of values to keep per scalar.
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
            return  # everything is written, and no further iterations follow
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
                # Only the latest value of an unsmoothed scalar is ever written.
                name: {
                    "values": histories[name].values()[-self.window_size if smooth[name] else -1 :],
                    "smooth": smooth[name],
                }
                for name in names
            },
            "written": written,
        }

    def _put_since(self, iteration: float) -> list[str]:
        """Return the scalars that have a value newer than ``iteration``."""
        latest = self.trainer.storage.latest()
        return [name for name, (_, when) in latest.items() if when > iteration and name not in _OF_THE_MACHINE]

    def load_state_dict(self, state_dict: dict) -> None:
        # checkpoints of earlier versions lack "written"
        self._kept, self._written = state_dict["kept"], state_dict.get("written")


def cut_off(metrics_file: str, iteration: int) -> None:
    """Remove the lines of ``iteration`` and later ones from a ``metrics.json``, in place, and an incomplete last line.

    Lines are in order, except for neighbors.
    """
    with suppress(FileNotFoundError), open(metrics_file, "r+b") as file:
        lines = file.readlines()
        dropped = [_iteration_of(line) >= iteration for line in lines]
        first = dropped.index(True) if True in dropped else len(lines)
        file.seek(sum(map(len, lines[:first])))
        file.write(b"".join(line for line, drop in zip(lines[first:], dropped[first:], strict=True) if not drop))
        file.truncate()


@contextmanager
def at_iteration(trainer: TrainerBase, iteration: int) -> Iterator[None]:
    """Within this context, set trainer and event storage back to the end of an earlier iteration."""
    present = trainer.iter
    trainer.iter = trainer.storage.iter = iteration
    yield
    trainer.iter = trainer.storage.iter = present


def _iteration_of(line: bytes) -> float:
    """Return the iteration of a line; infinity if the line is incomplete."""
    try:
        return json.loads(line)["iteration"] if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
