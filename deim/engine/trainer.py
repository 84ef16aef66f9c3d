"""detectron2's training loop with mixed precision, gradient accumulation and gradient clipping."""

import logging
import math
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import SimpleTrainer, hooks
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from deim.devices import PRECISIONS
from deim.engine.non_finite import NonFiniteError, NonFiniteGuard
from deim.engine.optimizer_options import apply_changed_options, optimizer_options
from deim.engine.randomness import seed_iteration
from deim.errors import ConfigError

logger = logging.getLogger("detectron2.deim")


# detectron2 stores the states of hooks by class name. Checkpoints of earlier versions contain the former names.
_FORMER_HOOK_NAMES = {"MetricsContinuation": "MetricsResumeHook", "EvaluationRecord": "EvaluationResumeHook"}


class Trainer(SimpleTrainer):
    """Trainer of models that map a list of samples to a dict of losses, on CPU or GPU.

    Args:
        amp: "bfloat16", "float16" (with a gradient scaler) or None for float32.
        clip_grad: arguments of ``clip_grad_norm_``, such as ``max_norm``; None for no clipping.
        accumulation_steps: number of parts of each batch. Their gradients are summed, weighted by their share of the
            images. The schedule is not affected.
        seed: seed of the model's random numbers, applied at each iteration; None to not seed.
        guard: handles NaN/Inf losses and gradients; by default, the first such step ends the run.

    Raises:
        ConfigError: if the precision is unknown, or ``accumulation_steps`` is less than 1.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict]],
        optimizer: torch.optim.Optimizer,
        *,
        amp: str | None = None,
        clip_grad: Mapping[str, Any] | None = None,
        accumulation_steps: int = 1,
        seed: int | None = None,
        guard: NonFiniteGuard | None = None,
    ):
        super().__init__(model, data_loader, optimizer)
        if amp is not None and amp not in PRECISIONS:
            raise ConfigError(f"train.amp.dtype={amp!r}; choose one of {', '.join(PRECISIONS)}")
        if accumulation_steps < 1:
            raise ConfigError(f"train.accumulation_steps must be at least 1, got {accumulation_steps}")
        self.amp, self.clip_grad, self.accumulation_steps = amp, clip_grad, accumulation_steps
        self.seed, self.guard = seed, guard or NonFiniteGuard(getattr(model, "module", model))
        # batch of the current step, for hooks
        self.samples: list[dict] = []
        # first iteration that is not skipped, and last iteration of a run that ends early
        self._skip_target: float = 0
        self._last_iter: int | None = None
        self._optimizer_options = optimizer_options(optimizer)
        # cached, since walking through the model takes a millisecond
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.device_type = next(model.parameters()).device.type
        self.grad_scaler = torch.amp.GradScaler(self.device_type) if amp == "float16" else None

    def before_train(self) -> None:
        super().before_train()
        if hasattr(self.data_loader, "start_iter"):
            self.data_loader.start_iter = self.start_iter

    def after_train(self) -> None:
        # detectron2 increments the iteration even if nothing was left to do.
        self.iter = min(self.iter, self.max_iter)
        if self._last_iter is not None:
            self.iter = self._last_iter  # hooks then do not treat the run as complete
        super().after_train()

    def skip_to(self, iteration: int) -> None:
        """Continue with ``iteration`` after the current one; the learning rate and the data are those of ``iteration``.

        Skipped iterations have no steps and call no hooks.
        """
        self._skip_target = iteration

    def stop(self, last_iter: int) -> None:
        """End the run after the current iteration, without an evaluation at the end.

        Args:
            last_iter: iteration of the trainer in ``after_train``: the last one that was trained.
        """
        self._last_iter, self._skip_target = last_iter, math.inf

    @property
    def has_ended(self) -> bool:
        """True if :meth:`stop` was called, or a run is resumed in which it was called."""
        return self._last_iter is not None

    def before_step(self) -> None:
        if self.iter < self._skip_target:
            return
        if self.iter == self._skip_target and self.iter > self.start_iter:
            self._move_to_current_iteration()
        super().before_step()

    def after_step(self) -> None:
        if self.iter >= self._skip_target:
            super().after_step()

    def _move_to_current_iteration(self) -> None:
        """Set the data loader and the learning rate to the current iteration."""
        if hasattr(self.data_loader, "start_iter"):
            self.data_loader.start_iter = self.iter
            self._data_loader_iter_obj = None
        for hook in self._hooks:
            if isinstance(hook, hooks.LRScheduler) and isinstance(hook.scheduler, LRMultiplier):
                hook.scheduler.last_epoch = self.iter
                for group, lr in zip(self.optimizer.param_groups, hook.scheduler.get_lr(), strict=True):
                    group["lr"] = lr

    def run_step(self) -> None:
        if self.iter < self._skip_target:
            return
        start = time.perf_counter()
        samples = self.samples = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad()
        self.guard.before_step()
        if self.seed is not None:
            seed_iteration(self.seed, self.iter, comm.get_rank())
        losses = self._accumulate(samples)
        norm = self._clip_gradients()
        self.after_backward()
        self._apply_step(_to_host(losses, norm, with_norm=self.grad_scaler is None), data_time)

    def _clip_gradients(self) -> Tensor:
        """Unscale and clip the gradients, and return their norm before clipping."""
        if self.grad_scaler is not None:
            self.grad_scaler.unscale_(self.optimizer)
        if self.clip_grad is not None:
            return nn.utils.clip_grad_norm_(self.parameters, **self.clip_grad)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        return torch.stack(torch._foreach_norm(gradients)).norm()

    def _apply_step(self, result: "StepResult", data_time: float) -> None:
        """Write the metrics and update the weights, unless the step is skipped."""
        step_info = {"iteration": self.iter, "seed": self.seed, "rank": comm.get_rank(), "amp": self.amp}
        step_info["accumulation_steps"] = self.accumulation_steps
        is_skipped = result.is_non_finite
        if is_skipped:
            self.guard.skip_step(step_info, result.losses, result.norm, self.samples)
        else:
            self._write_metrics(result.losses, data_time)
            self.storage.put_scalar("grad_norm", result.norm, cur_iter=self.iter)
        if self.grad_scaler is None:
            if not is_skipped:
                self.optimizer.step()
            return
        if not is_skipped:
            self.grad_scaler.step(self.optimizer)  # skips the update if scaling made gradients overflow
        self.grad_scaler.update()
        if not math.isfinite(result.norm) and self.grad_scaler.get_scale() < 1:
            raise NonFiniteError(
                f"NaN/Inf gradients at iteration {self.iter} although the float16 loss scale has dropped below 1, so that "
                "loss scaling is not the cause: set train.amp.dtype=bfloat16 or train.amp.enabled=false"
            )

    def _accumulate(self, samples: list[dict]) -> dict[str, Tensor]:
        """Accumulate the gradients of the whole batch and return the mean losses."""
        parts = split_batch(samples, self.accumulation_steps)
        mean: dict[str, Tensor] = {}
        for number, (part, share) in enumerate(parts, 1):
            with self._synchronized(last=number == len(parts)):
                with torch.autocast(self.device_type, PRECISIONS.get(self.amp or ""), enabled=self.amp is not None):
                    losses = self.model(part)
                total = sum(losses.values()) * share
                (total if self.grad_scaler is None else self.grad_scaler.scale(total)).backward()
            for name, value in losses.items():
                mean[name] = mean.get(name, 0) + value.detach() * share
        return mean

    def _synchronized(self, last: bool) -> Any:
        """Synchronize gradients between ranks once per step, with the last part of the batch."""
        return nullcontext() if last or not isinstance(self.model, DistributedDataParallel) else self.model.no_sync()

    def state_dict(self) -> dict:
        state = super().state_dict()
        state["seed"], state["skipped_steps"] = self.seed, self.guard.skipped
        state["optimizer_options"] = self._optimizer_options
        state["data_seed"] = getattr(self.data_loader, "seed", None)
        state["total_batch_size"] = getattr(self.data_loader, "total_batch_size", None)
        if self.grad_scaler is not None:
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        hooks = {_FORMER_HOOK_NAMES.get(name, name): state for name, state in state_dict.get("hooks", {}).items()}
        super().load_state_dict({**state_dict, "hooks": hooks})
        match_memory_formats(self.optimizer)
        apply_changed_options(self.optimizer, state_dict.get("optimizer_options"), self._optimizer_options)
        self.guard.skipped = state_dict.get("skipped_steps", 0)
        self._restore_seeds(state_dict.get("seed"), state_dict.get("data_seed", state_dict.get("seed")))
        if self.grad_scaler is not None and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])

    def load_optimizer(self, state_dict: dict) -> None:
        """Load the optimizer of a checkpoint of the run, but keep learning rates and the options of this config.

        Args:
            state_dict: state of the trainer in the checkpoint.
        """
        learning_rates = [group["lr"] for group in self.optimizer.param_groups]  # the schedule continues
        self.optimizer.load_state_dict(state_dict["optimizer"])
        apply_changed_options(self.optimizer, state_dict.get("optimizer_options"), self._optimizer_options)
        for group, learning_rate in zip(self.optimizer.param_groups, learning_rates, strict=True):
            group["lr"] = learning_rate

    def _restore_seeds(self, seed: int | None, data_seed: int | None) -> None:
        """Continue with the seeds of the original run: those of the model and of the data."""
        for owner, name, value in ((self, "model", seed), (self.data_loader, "data", data_seed)):
            current = getattr(owner, "seed", None)
            if value is not None and current is not None and value != current:
                logger.info(f"Continuing with the {name} seed {value} of the original run instead of {current}")
                owner.seed = value


def split_batch(samples: list[dict], steps: int) -> list[tuple[list[dict], float]]:
    """Split a batch into at most ``steps`` parts, and return each with its share of the images."""
    size = -(-len(samples) // steps)
    parts = [samples[i : i + size] for i in range(0, len(samples), size)]
    return [(part, len(part) / len(samples)) for part in parts]


def match_memory_formats(optimizer: torch.optim.Optimizer) -> None:
    """Convert the optimizer state to the memory format of each parameter, in place.

    Fused optimizers walk through parameter and state in memory order, and a checkpoint may come from a run with
    another memory format.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


@dataclass(frozen=True)
class StepResult:
    """Losses and gradient norm of a step, on the CPU.

    Attributes:
        losses: {name: () float32} of this rank.
        norm: norm of the gradients, which are averaged over all ranks.
        is_non_finite: whether a loss (or the norm, if it counts) is NaN/Inf in any rank.
    """

    losses: dict[str, Tensor]
    norm: float
    is_non_finite: bool


def _to_host(losses: dict[str, Tensor], norm: Tensor, with_norm: bool) -> StepResult:
    """Copy the losses and the gradient norm to the CPU in a single transfer.

    Args:
        with_norm: whether a NaN/Inf norm counts.
    """
    values = torch.stack([*(value.float() for value in losses.values()), norm.float()])
    has_non_finite = (~values[: len(values) - (not with_norm)].isfinite()).any().float()
    if comm.get_world_size() > 1:
        dist.all_reduce(has_non_finite, op=dist.ReduceOp.MAX)
    *own_losses, gradient_norm, is_non_finite = torch.cat([values, has_non_finite[None]]).cpu().unbind()
    return StepResult(dict(zip(losses, own_losses, strict=True)), float(gradient_norm), bool(is_non_finite))
