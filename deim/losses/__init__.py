"""Losses and the criterion that applies them."""

from deim.losses.criterion import Criterion
from deim.losses.supervision import DFINE_SUPERVISION, Supervision

__all__ = ["DFINE_SUPERVISION", "Criterion", "Supervision"]
