"""Evaluation after a number of minutes."""

import time
from collections.abc import Callable

from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from deim.engine.hooks.checkpoints import BestCheckpointer
from deim.engine.hooks.iterations import evaluates_after
from deim.engine.hooks.metrics import MetricsWriter
from deim.errors import ConfigError

# Iterations between two looks at the clock, which ranks have to agree on.
CHECK_PERIOD = 20


class TimedEvaluationHook(HookBase):
    """Hook that evaluates when some time has passed since the last evaluation, in addition to the periodic ones.

    The results are logged, and ``model_best.pth`` is saved if they are the best. Hooks that count evaluations do not count
    these. The clock of the main rank decides for all ranks. The time affects the weights of a run only if its final
    epochs start from the best checkpoint.

    Register it after the hooks of the periodic evaluation and before the writer.

    Args:
        minutes: time between the end of an evaluation and the start of the next one.
        evaluate: evaluates and returns the results; None or empty on ranks without results.
        eval_period: iterations between periodic evaluations.
        best_checkpointer: None on ranks that do not save.
        metrics_writer: None on ranks that do not write.

    Raises:
        ConfigError: if ``minutes`` is not positive.
    """

    def __init__(
        self,
        minutes: float,
        evaluate: Callable[[], dict | None],
        *,
        eval_period: int,
        best_checkpointer: BestCheckpointer | None,
        metrics_writer: MetricsWriter | None,
    ):
        if minutes <= 0:
            raise ConfigError(f"train.eval_minutes must be positive, got {minutes}")
        self.minutes, self.evaluate, self.eval_period = minutes, evaluate, eval_period
        self.best_checkpointer, self.metrics_writer = best_checkpointer, metrics_writer
        self._last = 0.0

    def before_train(self) -> None:
        self._last = time.monotonic()

    def after_step(self) -> None:
        following = self.trainer.iter + 1
        if evaluates_after(self.trainer.iter, self.eval_period, self.trainer.max_iter):
            self._last = time.monotonic()
        elif following % CHECK_PERIOD == 0 and following < self.trainer.max_iter and self._is_due():
            self._evaluate()
            self._last = time.monotonic()

    def _is_due(self) -> bool:
        return comm.all_gather(time.monotonic() - self._last >= 60 * self.minutes)[0]

    def _evaluate(self) -> None:
        results = self.evaluate()
        if results:
            self.trainer.storage.put_scalars(**flatten_results_dict(results), smoothing_hint=False)
        if self.best_checkpointer is not None:
            self.best_checkpointer.check()
        if self.metrics_writer is not None:
            self.metrics_writer.request(self.trainer.iter)
        comm.synchronize()
