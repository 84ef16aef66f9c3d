"""Exponential moving average of the weights, with DEIM's warm-up."""

import math

import torch
from detectron2.engine import HookBase
from detrex.modeling.ema import EMAState
from torch import nn


class EMAHook(HookBase):
    """Updates an :class:`EMAState` after each iteration.

    The decay at the n-th update is ``decay * (1 - exp(-n / warmup_iters))``, so that the average
    soon forgets the random weights (as in YOLOv5, RT-DETR and DEIM). Floating-point buffers, the
    statistics of normalization among them, are averaged too; others are copied.

    Args:
        model: without DistributedDataParallel around it.
        state: filled from the model before training, unless a checkpoint has filled it.
        decay: in (0, 1).
        warmup_iters: 0 for none.
        device: where the averages are kept; "" where the model is.
    """

    def __init__(
        self, model: nn.Module, state: EMAState, decay: float = 0.9999, warmup_iters: int = 1000, device: str = ""
    ):
        self.model, self.state, self.device = model, state, device
        self.decay, self.warmup_iters = decay, warmup_iters
        self.updates = 0

    def current_decay(self) -> float:
        if self.warmup_iters <= 0:
            return self.decay
        return self.decay * (1 - math.exp(-self.updates / self.warmup_iters))

    def before_train(self) -> None:
        if self.state.has_inited():
            self.state.to(self.device or next(self.model.parameters()).device)
        else:
            self.state.save_from(self.model, self.device)
        # Looked up once: walking through a model takes as long as updating it. What it consists of stays the same, whereas
        # averages may be loaded anew.
        values = dict(self.state.get_model_state_iterator(self.model))
        self.averaged = {name: value for name, value in values.items() if value.is_floating_point()}
        self.copied = {name: value for name, value in values.items() if name not in self.averaged}

    @torch.no_grad()
    def after_step(self) -> None:
        self.updates += 1
        averages = [self.state.state[name] for name in self.averaged]
        values = [value.to(average.device) for value, average in zip(self.averaged.values(), averages, strict=True)]
        torch._foreach_lerp_(averages, values, 1 - self.current_decay())
        if self.copied:
            torch._foreach_copy_([self.state.state[name] for name in self.copied], list(self.copied.values()))

    def state_dict(self) -> dict:
        return {"updates": self.updates}

    def load_state_dict(self, state_dict: dict) -> None:
        self.updates = state_dict["updates"]
