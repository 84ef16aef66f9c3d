"""Epoch of the criterion, on which matching costs and losses may depend."""

from detectron2.engine import HookBase, SimpleTrainer

from deim.errors import ConfigError
from deim.modeling.losses.criterion import criteria


class CriterionEpochHook(HookBase):
    """Hook that sets the epoch of the criterion from the iteration of the trainer, at the start of each epoch.

    The hook works with each trainer of detectron2 and detrex. The trainer's model may be wrapped by
    DistributedDataParallel or ``torch.compile``, and may contain the criterion at any place.

    Args:
        iters_per_epoch: iterations per epoch, at least 1; None if the data loader has no epochs. The epoch is then
            always 0.
    """

    trainer: SimpleTrainer

    def __init__(self, iters_per_epoch: int | None):
        self.iters_per_epoch = iters_per_epoch

    def before_train(self) -> None:
        """Check that the epoch is known if the matching depends on it.

        Raises:
            ConfigError: if the matcher has a late cost, but the data loader has no epochs.
        """
        has_late_cost = any(
            getattr(criterion.matcher, "late_cost", None) is not None for criterion in criteria(self.trainer.model)
        )
        if has_late_cost and self.iters_per_epoch is None:
            raise ConfigError(
                "model.criterion.matcher.late_epoch needs the number of iterations per epoch, which the data loader "
                "does not have: set model.criterion.matcher.late_cost and late_epoch to null"
            )

    def before_step(self) -> None:
        """Set the epoch in the first step of a run, resumed or not, and of each epoch."""
        if self.iters_per_epoch is None:
            return
        epoch, index = divmod(self.trainer.iter, self.iters_per_epoch)
        if index == 0 or self.trainer.iter == self.trainer.start_iter:
            for criterion in criteria(self.trainer.model):
                criterion.epoch = epoch
