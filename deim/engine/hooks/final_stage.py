"""Final stage of DEIM and D-FINE: restart from the best checkpoint."""

import logging
import math
import os
from typing import TYPE_CHECKING

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase
from detectron2.utils import comm

from deim.checkpoint.reading import read_checkpoint
from deim.engine.hooks.checkpoints import BestCheckpointer
from deim.engine.hooks.ema import EMAHook
from deim.engine.hooks.iterations import evaluates_after

if TYPE_CHECKING:
    from deim.engine.trainer import Trainer

logger = logging.getLogger("detectron2.deim")

# Name of the copy of the best checkpoint before the final epochs.
_STAGE1 = "model_best_stage1"


class FinalStageHook(HookBase):
    """Hook that starts the final epochs (without augmentation) from the best earlier checkpoint.

    At ``start_iter`` the weights, EMA weights and optimizer state are restored from ``model_best.pth``, which is kept
    as ``model_best_stage1.pth``, and the EMA decay is set to ``decay``. An evaluation in the final epochs triggers another
    restart if it does not exceed the best result so far, unless ``restarts`` is False. After such a restart, only results
    since the restart count. If ``decay`` is given, every further restart lowers the EMA decay by ``decay_step``.

    A run that resumes from a checkpoint before ``start_iter``, but has already saved a better ``model_best.pth`` in the
    final epochs, starts them from ``model_best_stage1.pth``.

    Register it after the hooks that evaluate and that save the best checkpoint, and before the hook that saves the
    resulting state.

    Args:
        ema_hook: EMA hook of the run.
        best_checkpointer: hook that saves ``model_best.pth``; None on ranks that do not save.
        start_iter: first iteration of the final epochs.
        eval_period: iterations between evaluations; 0 to evaluate only at the end.
        metric: scalar in the event storage, such as "bbox/AP".
        decay: EMA decay from ``start_iter`` on; None to never change it, as the official code does in effect.
        decay_step: reduction of the EMA decay per further restart.
        restarts: restart again after evaluations without improvement.
    """

    trainer: "Trainer"

    def __init__(
        self,
        checkpointer: DetectionCheckpointer,
        ema_hook: EMAHook,
        best_checkpointer: BestCheckpointer | None,
        *,
        start_iter: int,
        eval_period: int,
        metric: str,
        decay: float | None,
        decay_step: float = 1e-4,
        restarts: bool = True,
    ):
        self.checkpointer = checkpointer
        self.ema_hook, self.best_checkpointer = ema_hook, best_checkpointer
        self.start_iter, self.eval_period, self.metric = start_iter, eval_period, metric
        self.decay, self.decay_step, self.restarts = decay, decay_step, restarts
        # Score that an evaluation must exceed; None before the final epochs, or if no evaluation preceded them.
        self.reference: float | None = None

    @property
    def path(self) -> str:
        return os.path.join(self.checkpointer.save_dir, f"{_STAGE1}.pth")

    @property
    def _decay_at_start(self) -> float:
        return self.ema_hook.decay if self.decay is None else self.decay

    def before_step(self) -> None:
        if self.trainer.iter != self.start_iter:
            return
        score, best_checkpointer = None, self.best_checkpointer
        if best_checkpointer is not None and best_checkpointer.best_metric is not None:
            if best_checkpointer.best_iter >= self.start_iter and best_checkpointer.has_copy(_STAGE1):
                best_checkpointer.restore_best(_STAGE1)
            else:
                best_checkpointer.copy_best(_STAGE1)
            score = best_checkpointer.best_metric
        # The main rank decides for all ranks. The collective also makes them wait until it has copied the file.
        self.reference = comm.all_gather(score)[0]
        if self.reference is None:
            logger.warning(
                "The final epochs continue from the current weights, since no earlier evaluation has selected the best ones"
            )
            self.ema_hook.decay = self._decay_at_start
        else:
            self._restart(self._decay_at_start)

    def after_step(self) -> None:
        is_evaluated = evaluates_after(self.trainer.iter, self.eval_period, self.trainer.max_iter)
        if not self.restarts or self.reference is None or not is_evaluated or self.trainer.iter < self.start_iter:
            return
        latest = self.trainer.storage.latest().get(self.metric, (-math.inf, -1))[0]
        score = comm.all_gather(latest)[0]  # only the main rank has results
        if score > self.reference:
            self.reference = score
        else:
            self.reference = -math.inf
            self._restart(self.ema_hook.decay - (0 if self.decay is None else self.decay_step))

    def _restart(self, decay: float) -> None:
        content = read_checkpoint(self.path)
        self.ema_hook.model.load_state_dict(content["model"])
        ema_state = self.ema_hook.state
        device = ema_state.device
        ema_state.load_state_dict(content["ema_state"])
        ema_state.to(device)
        self.trainer.load_optimizer(content["trainer"])
        self.ema_hook.decay = decay
        logger.info(f"Restarted from the best weights before the final epochs, with EMA decay {decay:g}")

    def state_dict(self) -> dict:
        has_started = self.trainer.iter >= self.start_iter
        return {"decay": self.ema_hook.decay if has_started else None, "reference": self.reference}

    def load_state_dict(self, state_dict: dict) -> None:
        self.reference = state_dict["reference"]
        if state_dict["decay"] is not None:  # None before the final epochs: the decay is that of the config
            self.ema_hook.decay = state_dict["decay"]
