"""Hooks that write ``metrics.json``, and continue it on ``--resume``."""

import json
import math
from collections.abc import Sequence
from contextlib import suppress

from detectron2.engine import HookBase, hooks

from deim.engine.hooks.iterations import at_iteration, evaluates_after


class MetricsWriter(hooks.PeriodicWriter):
    """detectron2's ``PeriodicWriter``, which also writes after each evaluation.

    The results of an evaluation are then not lost if the run is killed before the next due line.

    Args:
        eval_period: see :class:`EvaluationResumeHook`.
        metrics_file: JSON file of one of the writers; need not exist yet.

    Attributes:
        written: last iteration after which metrics were written; -1 if none were.
    """

    def __init__(self, writers: Sequence, period: int, eval_period: int, metrics_file: str):
        super().__init__(writers, period)
        self._eval_period, self.metrics_file = eval_period, metrics_file
        self.written = -1
        self._requested = -1

    def request(self, iteration: int) -> None:
        """Write the metrics of an iteration also if they are not due."""
        self._requested = iteration

    def after_step(self) -> None:
        iteration = self.trainer.iter
        if self._is_due(iteration) or self._follows_evaluation(iteration) or self._requested == iteration:
            for writer in self._writers:
                writer.write()
            self.written = self.trainer.iter

    def truncate_after(self, written: int) -> None:
        """Remove all metrics written after iteration ``written``."""
        truncate_metrics(self.metrics_file, written + 1)
        self.written = written

    def has_missed(self, iteration: int) -> bool:
        """Return whether metrics were due but not written after an iteration.

        Iterations with an evaluation are excluded: :class:`EvaluationResumeHook` handles them.
        """
        return self.written < iteration and self._is_due(iteration) and not self._follows_evaluation(iteration)

    def _is_due(self, iteration: int) -> bool:
        return (iteration + 1) % self._period == 0 or iteration + 1 == self.trainer.max_iter

    def _follows_evaluation(self, iteration: int) -> bool:
        return evaluates_after(iteration, self._eval_period, self.trainer.max_iter)


# Timings are not restored: those of an earlier process do not describe this one.
_TIMING_SCALARS = {"time", "data_time", "rank_data_time"}


class MetricsResumeHook(HookBase):
    """Hook that makes ``metrics.json`` of a resumed run identical to that of an uninterrupted one.

    Its state in a checkpoint contains two kinds of scalars: the latest ``window_size`` values of scalars that are
    written as a median, and values that are not in ``metrics.json`` yet. On resume, the hook removes the lines written
    after the checkpoint. If the line of the iteration of the checkpoint is missing, the hook has it written.

    Register this hook after the hooks that put scalars at every iteration, and before all others.

    Args:
        writer: None on ranks that do not write.
        window_size: number of values to keep per scalar.
    """

    def __init__(self, writer: MetricsWriter | None, window_size: int = 20):
        self.writer, self.window_size = writer, window_size
        self._logged_always: list[str] = []
        self._stored: dict[str, dict] = {}
        self._written: int | None = None

    def before_train(self) -> None:
        last, writer = self.trainer.start_iter - 1, self.writer
        if writer is not None:
            # Also without a checkpoint: a run that was killed before its first checkpoint starts again.
            writer.truncate_after(last if self._written is None else self._written)
        if last < 0:
            return
        is_missing = writer is not None and writer.has_missed(last)
        is_complete = last + 1 >= self.trainer.max_iter or getattr(self.trainer, "has_ended", False)
        if is_complete and not is_missing:
            return  # everything is written, and no further iterations follow
        self._restore()
        if writer is not None and is_missing:
            with at_iteration(self.trainer, last):
                writer.after_step()

    def _restore(self) -> None:
        self._logged_always = list(self._stored)
        for name, stored in self._stored.items():
            for value, iteration in stored["values"]:
                self.trainer.storage.put_scalar(name, value, smoothing_hint=stored["smooth"], cur_iter=int(iteration))

    def after_step(self) -> None:
        self._logged_always = self._scalars_since(self.trainer.iter - 1)

    def state_dict(self) -> dict:
        written = math.inf if self.writer is None else self.writer.written
        names = dict.fromkeys([*self._logged_always, *self._scalars_since(written)])
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

    def _scalars_since(self, iteration: float) -> list[str]:
        """Return the scalars that have a value newer than ``iteration``."""
        latest = self.trainer.storage.latest()
        return [
            name
            for name, (_, last_iteration) in latest.items()
            if last_iteration > iteration and name not in _TIMING_SCALARS
        ]

    def load_state_dict(self, state_dict: dict) -> None:
        # checkpoints of earlier versions lack "written"
        self._stored, self._written = state_dict["kept"], state_dict.get("written")


def truncate_metrics(metrics_file: str, iteration: int) -> None:
    """Remove the lines of ``iteration`` and later ones from a ``metrics.json``, in place, and an incomplete last line.

    Neighboring lines may be in the wrong order.
    """
    with suppress(FileNotFoundError), open(metrics_file, "r+b") as file:
        lines = file.readlines()
        kept = [_iteration_of_line(line) < iteration for line in lines]
        first = kept.index(False) if False in kept else len(lines)
        file.seek(sum(map(len, lines[:first])))
        file.write(b"".join(line for line, is_kept in zip(lines[first:], kept[first:], strict=True) if is_kept))
        file.truncate()


def _iteration_of_line(line: bytes) -> float:
    """Return the iteration of a line; infinity if the line is incomplete."""
    try:
        return json.loads(line)["iteration"] if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
