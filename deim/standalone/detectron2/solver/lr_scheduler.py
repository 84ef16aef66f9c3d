"""Learning rate scheduler with a multiplier of the initial learning rates."""

from fvcore.common.param_scheduler import ParamScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class LRMultiplier(LRScheduler):
    """Scheduler that sets ``lr`` of each group to ``initial_lr * multiplier(iteration / max_iter)``."""

    def __init__(self, optimizer: Optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int = -1):
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(f"multiplier must be an fvcore ParamScheduler, got {multiplier!r}")
        self._multiplier, self._max_iter = multiplier, max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self):
        # The multiplier is determined by the config, so only the iteration is saved.
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[float]:
        factor = self._multiplier(self.last_epoch / self._max_iter)
        return [base * factor for base in self.base_lrs]
