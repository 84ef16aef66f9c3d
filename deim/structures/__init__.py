"""Boxes, encoder memory, predictions, and the edge distributions that boxes are decoded from."""

from deim.structures.memory import Memory
from deim.structures.predictions import EdgeDistributions, Predictions, Targets

__all__ = ["EdgeDistributions", "Memory", "Predictions", "Targets"]
