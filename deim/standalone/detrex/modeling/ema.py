"""The averaged copy of a model's parameters and buffers, as it stands in checkpoints."""

import itertools
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class EMAState:
    """Tensors by the names of a model's parameters and buffers."""

    def __init__(self):
        self.state: dict[str, torch.Tensor] = {}

    @classmethod
    def FromModel(cls, model: nn.Module, device: str = "") -> "EMAState":
        made = cls()
        made.save_from(model, device)
        return made

    def get_model_state_iterator(self, model: nn.Module):
        return itertools.chain(model.named_parameters(), model.named_buffers())

    def save_from(self, model: nn.Module, device: str = "") -> None:
        """Take copies of the model's tensors, on ``device`` or where they are."""
        for name, value in self.get_model_state_iterator(model):
            copied = value.detach().clone()
            self.state[name] = copied.to(device) if device else copied

    @torch.no_grad()
    def apply_to(self, model: nn.Module) -> None:
        """Write the tensors into the model."""
        for name, value in self.get_model_state_iterator(model):
            if name not in self.state:
                raise AssertionError(f"Name {name} not existed, available names {self.state.keys()}")
            value.copy_(self.state[name])

    @property
    def device(self):
        return next(iter(self.state.values())).device if self.state else None

    def to(self, device) -> "EMAState":
        self.state = {name: value.to(device) for name, value in self.state.items()}
        return self

    def has_inited(self) -> bool:
        return bool(self.state)

    def clear(self) -> "EMAState":
        self.state.clear()
        return self

    def state_dict(self):
        return self.state

    def load_state_dict(self, state_dict, strict: bool = True):
        self.state.clear()
        self.state.update(state_dict)
        return nn.modules.module._IncompatibleKeys(missing_keys=[], unexpected_keys=[])


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model


def may_build_model_ema(cfg, model) -> None:
    """Give ``model`` an empty ``ema_state`` if ``cfg.train.model_ema.enabled``."""
    if cfg.train.model_ema.enabled:
        _unwrapped(model).ema_state = EMAState()


def may_get_ema_checkpointer(cfg, model) -> dict:
    """What to add to a checkpointer: ``{"ema_state": ...}`` or nothing."""
    return {"ema_state": _unwrapped(model).ema_state} if cfg.train.model_ema.enabled else {}


def get_model_ema_state(model) -> EMAState:
    return _unwrapped(model).ema_state


def apply_model_ema(model, state=None, save_current=False):
    """Write the averages into the model; with ``save_current`` return what stood there."""
    model = _unwrapped(model)
    state = state or get_model_ema_state(model)
    former = EMAState.FromModel(model, state.device) if save_current else None
    state.apply_to(model)
    return former


@contextmanager
def apply_model_ema_and_restore(model, state=None):
    """The averages in the model within, the former values after."""
    former = apply_model_ema(model, state, save_current=True)
    try:
        yield former
    finally:
        former.apply_to(_unwrapped(model))
