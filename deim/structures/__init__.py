"""Boxes, tokens, predictions and the distributions that boxes are read from."""

from deim.structures.memory import Memory
from deim.structures.predictions import EdgeDistributions, Predictions, Targets

__all__ = ["EdgeDistributions", "Memory", "Predictions", "Targets"]
