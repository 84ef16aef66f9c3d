"""Hook that repeats an interrupted evaluation."""

import logging
from collections.abc import Sequence

from detectron2.engine import HookBase

from deim.checkpoint.run_checkpointer import RunCheckpointer
from deim.engine.hooks.iterations import at_iteration, evaluates_after

logger = logging.getLogger("detectron2.deim")


class EvaluationResumeHook(HookBase):
    """Hook that repeats an interrupted evaluation on ``--resume``, so that every evaluation is done exactly once.

    The checkpoint of an iteration is written before the evaluation, so that it exists even if the evaluation fails,
    and again after the evaluation. A run that resumes from the first version evaluates before it trains.

    Register this hook after all hooks that write or evaluate.

    Args:
        eval_period: iterations between evaluations; 0 to evaluate only at the end.
        checkpointer: None on ranks that do not save.
        evaluation_hooks: hooks that evaluate or use the results, in order.
    """

    def __init__(
        self,
        eval_period: int,
        checkpointer: RunCheckpointer | None,
        evaluation_hooks: Sequence[HookBase],
    ):
        self.eval_period, self.checkpointer, self.evaluation_hooks = eval_period, checkpointer, evaluation_hooks
        self.evaluated = -1

    def _is_due(self, iteration: int) -> bool:
        return evaluates_after(iteration, self.eval_period, self.trainer.max_iter)

    def before_train(self) -> None:
        last = self.trainer.start_iter - 1
        if last < 0 or not self._is_due(last) or self.evaluated >= last:
            return
        logger.info(f"The run was interrupted before the evaluation of iteration {last}: evaluating now")
        with at_iteration(self.trainer, last):
            for hook in self.evaluation_hooks:
                hook.after_step()
            self._mark_evaluated(last)

    def after_step(self) -> None:
        if self._is_due(self.trainer.iter):
            self._mark_evaluated(self.trainer.iter)

    def _mark_evaluated(self, iteration: int) -> None:
        self.evaluated = iteration
        if self.checkpointer is not None and self.checkpointer.has_iteration(iteration):
            self.checkpointer.save_iteration(iteration)

    def state_dict(self) -> dict:
        return {"evaluated": self.evaluated}

    def load_state_dict(self, state_dict: dict) -> None:
        self.evaluated = state_dict["evaluated"]
