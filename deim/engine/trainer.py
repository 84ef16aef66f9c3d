"""detectron2's loop with mixed precision, accumulation and clipping."""

import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from deim.errors import ConfigError

PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Trainer(SimpleTrainer):
    """Runs a model that maps a list of samples to a dict of losses, on CPU or CUDA.

    Args:
        amp: "bfloat16", "float16" (with a gradient scaler) or None for float32.
        clip_grad: arguments of ``clip_grad_norm_``, such as ``max_norm``; None for no clipping.
        accumulation_steps: each batch is cut into this many parts whose gradients are summed, each
            weighted by its share of the images; the rest of the schedule does not notice.

    Raises:
        ConfigError: an unknown precision or fewer than one step.
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
    ):
        super().__init__(model, data_loader, optimizer)
        if amp is not None and amp not in PRECISIONS:
            raise ConfigError(f"train.amp.dtype={amp!r}; choose one of {', '.join(PRECISIONS)}")
        if accumulation_steps < 1:
            raise ConfigError(f"train.accumulation_steps must be at least 1, got {accumulation_steps}")
        self.amp, self.clip_grad, self.accumulation_steps = amp, clip_grad, accumulation_steps
        # the batch of the present step, for hooks to look at
        self.samples: list[dict] = []
        self.device_type = next(model.parameters()).device.type
        self.grad_scaler = torch.amp.GradScaler(self.device_type) if amp == "float16" else None

    def before_train(self) -> None:
        super().before_train()
        if hasattr(self.data_loader, "start_iter"):
            self.data_loader.start_iter = self.start_iter

    def run_step(self) -> None:
        start = time.perf_counter()
        samples = self.samples = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad()
        losses = self._accumulate(samples)
        if self.grad_scaler is not None:
            self.grad_scaler.unscale_(self.optimizer)
        if self.clip_grad is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), **self.clip_grad)
        self.after_backward()
        # Raises where the loss is not finite: before the weights are spoilt.
        self._write_metrics(_to_host(losses), data_time)
        if self.grad_scaler is None:
            self.optimizer.step()
        else:
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()

    def _accumulate(self, samples: list[dict]) -> dict[str, Tensor]:
        """Gradients of the whole batch, and its mean losses."""
        size = -(-len(samples) // self.accumulation_steps)
        parts = [samples[i : i + size] for i in range(0, len(samples), size)]
        mean: dict[str, Tensor] = {}
        for number, part in enumerate(parts, 1):
            share = len(part) / len(samples)
            with self._synchronized(last=number == len(parts)):
                with torch.autocast(self.device_type, PRECISIONS.get(self.amp or ""), enabled=self.amp is not None):
                    losses = self.model(part)
                total = sum(losses.values()) * share
                (total if self.grad_scaler is None else self.grad_scaler.scale(total)).backward()
            for name, value in losses.items():
                mean[name] = mean.get(name, 0) + value.detach() * share
        return mean

    def _synchronized(self, last: bool) -> Any:
        """Gradients travel between processes once per step, with the last part."""
        return nullcontext() if last or not isinstance(self.model, DistributedDataParallel) else self.model.no_sync()

    def state_dict(self) -> dict:
        state = super().state_dict()
        if self.grad_scaler is not None:
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        match_memory_formats(self.optimizer)
        if self.grad_scaler is not None and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def match_memory_formats(optimizer: torch.optim.Optimizer) -> None:
    """Lay out what an optimizer keeps of each parameter as the parameter itself, in place: fused optimizers go through
    their memory side by side, whatever the elements are, and a checkpoint may be of a run in another format."""
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                kept[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _to_host(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same scalars on the CPU, by a single copy."""
    values = torch.stack([value.float() for value in losses.values()]).cpu()
    return dict(zip(losses, values.unbind(), strict=True))
