"""Exponential moving average of the weights, with DEIM's warm-up."""

import math

import torch
from detectron2.engine import HookBase
from detrex.modeling.ema import EMAState
from torch import nn


class EMAHook(HookBase):
    """Hook that updates an :class:`EMAState` after each iteration.

    The decay at the n-th update is ``decay * (1 - exp(-n / warmup_iters))``, so that the random initial weights are
    soon forgotten (as in YOLOv5, RT-DETR and DEIM). Floating-point buffers, including normalization statistics, are
    averaged as well; other buffers are copied.

    Args:
        model: model without its DistributedDataParallel wrapper.
        state: EMA state; initialized from the model before training unless loaded from a checkpoint.
        decay: in (0, 1).
        warmup_iters: 0 for no warm-up.
        device: device of the EMA weights; "" for that of the model.
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
        # Looked up once, because walking through a model takes as long as the update. The model's tensors stay the same
        # objects; the EMA tensors may be replaced by loading a checkpoint.
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
