"""Training and evaluation on detectron2's loop and hooks."""

from deim.engine.ema import EMAHook
from deim.engine.optimizer import param_groups
from deim.engine.trainer import Trainer

__all__ = ["EMAHook", "Trainer", "param_groups"]
