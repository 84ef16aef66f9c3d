"""Losses and the criterion that applies them."""

from deim.modeling.losses.criterion import Criterion
from deim.modeling.losses.detrex import DetrexCriterion
from deim.modeling.losses.supervision import Supervision

__all__ = ["Criterion", "DetrexCriterion", "Supervision"]
