"""The training loop and the interface of its hooks."""

import logging
import time
import weakref
from collections.abc import Mapping

import detectron2.utils.comm as comm
import numpy as np
import torch
from detectron2.utils.events import EventStorage, get_event_storage

__all__ = ["HookBase", "SimpleTrainer", "TrainerBase"]


class HookBase:
    """Base class of hooks, which run before and after training and each iteration.

    Registration sets ``trainer``. A hook with state implements :meth:`state_dict` and ``load_state_dict``.
    """

    trainer: "TrainerBase" = None  # type: ignore[assignment]

    def before_train(self):
        """Run before the first iteration."""

    def after_train(self):
        """Run after the last iteration, or after an iteration has failed."""

    def before_step(self):
        """Run before each iteration."""

    def after_backward(self):
        """Run after the backward pass of an iteration."""

    def after_step(self):
        """Run after each iteration."""

    def state_dict(self):
        return {}


class TrainerBase:
    """A training loop that calls hooks in the order of their registration."""

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = self.start_iter = 0
        self.max_iter: int
        self.storage: EventStorage

    def register_hooks(self, hooks) -> None:
        """Append hooks; entries that are None are skipped.

        Raises:
            AssertionError: if an entry is not a hook.
        """
        registered = [hook for hook in hooks if hook is not None]
        for hook in registered:
            if not isinstance(hook, HookBase):
                raise AssertionError(f"Expected a HookBase, got {hook!r}")
            # A strong reference would form a cycle, which keeps the model alive after the trainer.
            hook.trainer = weakref.proxy(self)
        self._hooks.extend(registered)

    def train(self, start_iter: int, max_iter: int):
        """Run the iterations from ``start_iter`` to ``max_iter - 1``."""
        logger = logging.getLogger(__name__)
        logger.info(f"Starting training from iteration {start_iter}")
        self.start_iter, self.max_iter, self.iter = start_iter, max_iter, start_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self._iterate()
            except Exception:
                logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()

    def _iterate(self) -> None:
        self.before_train()
        for iteration in range(self.start_iter, self.max_iter):
            self.iter = iteration
            self.before_step()
            self.run_step()
            self.after_step()
        # iter == max_iter indicates to hooks that no iteration has failed.
        self.iter += 1

    def _notify(self, moment: str) -> None:
        for hook in self._hooks:
            getattr(hook, moment)()

    def before_train(self):
        self._notify("before_train")

    def before_step(self):
        self.storage.iter = self.iter
        self._notify("before_step")

    def after_backward(self):
        self._notify("after_backward")

    def after_step(self):
        self._notify("after_step")

    def after_train(self):
        self.storage.iter = self.iter
        self._notify("after_train")

    def run_step(self):
        raise NotImplementedError

    def state_dict(self):
        """Return ``{"iteration": ..., "hooks": {class name: state}}``."""
        states: dict[str, dict] = {}
        for hook in self._hooks:
            state = hook.state_dict()
            if state:
                states.setdefault(type(hook).__qualname__, state)
        return {"iteration": self.iter, **({"hooks": states} if states else {})}

    def load_state_dict(self, state_dict):
        self.iter = state_dict["iteration"]
        by_name = {type(hook).__qualname__: hook for hook in reversed(self._hooks)}
        for name, state in state_dict.get("hooks", {}).items():
            if name in by_name:
                by_name[name].load_state_dict(state)
            else:
                logging.getLogger(__name__).warning(f"Cannot find the hook '{name}', its state_dict is ignored.")


class SimpleTrainer(TrainerBase):
    """A trainer of one model, which returns a dict of losses, with one data loader and one optimizer."""

    def __init__(self, model, data_loader, optimizer, gather_metric_period=1, zero_grad_before_forward=False):
        """Create the trainer and set the model to training mode.

        Args:
            model: module that returns a dict of losses, or one loss, for a batch.
            data_loader: iterable of batches.
            optimizer: a torch optimizer.
            gather_metric_period: number of iterations between writes of the losses to the storage.
            zero_grad_before_forward: whether to clear gradients before the forward pass instead of after it.
        """
        super().__init__()
        model.train()
        self.model, self.data_loader, self.optimizer = model, data_loader, optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self._data_loader_iter_obj = None

    @property
    def _data_loader_iter(self):
        if self._data_loader_iter_obj is None:
            self._data_loader_iter_obj = iter(self.data_loader)
        return self._data_loader_iter_obj

    def run_step(self):
        if not self.model.training:
            raise AssertionError("[SimpleTrainer] model was changed to eval mode!")
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        output = self.model(data)
        loss_dict = {"total_loss": output} if isinstance(output, torch.Tensor) else output
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        sum(loss_dict.values()).backward()
        self.after_backward()
        self._write_metrics(loss_dict, data_time)
        self.optimizer.step()

    def _write_metrics(self, loss_dict: Mapping[str, torch.Tensor], data_time: float, prefix="", iter=None) -> None:
        current = self.iter if iter is None else iter
        if (current + 1) % self.gather_metric_period == 0:
            try:
                SimpleTrainer.write_metrics(loss_dict, data_time, current, prefix)
            except Exception:
                logging.getLogger(__name__).exception("Exception in writing metrics: ")
                raise

    @staticmethod
    def write_metrics(loss_dict: Mapping[str, torch.Tensor], data_time: float, cur_iter: int, prefix="") -> None:
        """Write the mean of each loss over all ranks, their sum, and the data time to the storage.

        Args:
            loss_dict: scalar losses of this rank.
            data_time: seconds that this rank waited for data.
            cur_iter: the iteration.
            prefix: prefix of the name of the sum.

        Raises:
            FloatingPointError: if the sum is NaN or infinite.
        """
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=cur_iter)
        local_losses = {name: value.detach().cpu().item() for name, value in loss_dict.items()}
        gathered = comm.gather((local_losses, data_time))
        if not comm.is_main_process():
            return
        storage.put_scalar("data_time", max(seconds for _, seconds in gathered), cur_iter=cur_iter)
        means = {name: float(np.mean([losses[name] for losses, _ in gathered])) for name in local_losses}
        total = sum(means.values())
        if not np.isfinite(total):
            raise FloatingPointError(f"Loss became infinite or NaN at iteration={cur_iter}!\nloss_dict = {means}")
        storage.put_scalar(f"{prefix}total_loss", total, cur_iter=cur_iter)
        if len(means) > 1:
            storage.put_scalars(cur_iter=cur_iter, **means)

    def state_dict(self):
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
