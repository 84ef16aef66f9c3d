"""EMA of the parameters and buffers of a model, in detrex's checkpoint layout."""

import itertools
import logging
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class EMAState:
    """EMA state: {name of a parameter or buffer: tensor}."""

    def __init__(self):
        self.state: dict[str, torch.Tensor] = {}

    @classmethod
    def FromModel(cls, model: nn.Module, device: str = "") -> "EMAState":
        """Return a state with copies of the tensors of a model."""
        state = cls()
        state.save_from(model, device)
        return state

    def get_model_state_iterator(self, model: nn.Module):
        return itertools.chain(model.named_parameters(), model.named_buffers())

    def save_from(self, model: nn.Module, device: str = "") -> None:
        """Copy the tensors of a model to ``device``, by default to their own device."""
        for name, value in self.get_model_state_iterator(model):
            copied = value.detach().clone()
            self.state[name] = copied.to(device) if device else copied

    @torch.no_grad()
    def apply_to(self, model: nn.Module) -> None:
        """Write the tensors into a model.

        Raises:
            AssertionError: if a tensor of the model is missing in the state.
        """
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
        """Replace all tensors. ``strict`` has no effect, since the names are not checked."""
        self.state.clear()
        self.state.update(state_dict)
        return nn.modules.module._IncompatibleKeys(missing_keys=[], unexpected_keys=[])

    def __repr__(self) -> str:
        return f"EMAState(state=[{','.join(self.state)}])"


def _unwrap(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model


def may_build_model_ema(cfg, model) -> None:
    """Add an empty ``ema_state`` to a model if ``cfg.train.model_ema.enabled`` is True.

    Raises:
        AssertionError: if the model already has an ``ema_state``.
    """
    if not cfg.train.model_ema.enabled:
        return
    model = _unwrap(model)
    if hasattr(model, "ema_state"):
        raise AssertionError("Name `ema_state` is reserved for model ema.")
    model.ema_state = EMAState()
    logging.getLogger(__name__).info("Using Model EMA.")


def may_get_ema_checkpointer(cfg, model) -> dict:
    """Return the checkpointables for EMA: ``{"ema_state": ...}``, or an empty dict if EMA is disabled."""
    return {"ema_state": _unwrap(model).ema_state} if cfg.train.model_ema.enabled else {}


def get_model_ema_state(model) -> EMAState:
    """Return the EMA state of a model. Raises AssertionError if it has none."""
    model = _unwrap(model)
    if not hasattr(model, "ema_state"):
        raise AssertionError("The model has no ema_state; call may_build_model_ema first")
    return model.ema_state


def apply_model_ema(model, state=None, save_current=False):
    """Write EMA weights into a model.

    Args:
        model: the model.
        state: the EMA state; by default the model's.
        save_current: whether to return a state with the overwritten tensors.
    """
    model = _unwrap(model)
    state = get_model_ema_state(model) if state is None else state
    former = EMAState.FromModel(model, state.device) if save_current else None
    state.apply_to(model)
    return former


@contextmanager
def apply_model_ema_and_restore(model, state=None):
    """Apply EMA weights to a model within the context and restore its tensors; see :func:`apply_model_ema`."""
    former = apply_model_ema(model, state, save_current=True)
    try:
        yield former
    finally:
        former.apply_to(_unwrap(model))
