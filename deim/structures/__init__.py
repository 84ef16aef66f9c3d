"""Boxes, encoder memory, predictions and their groups, and the edge distributions that boxes are decoded from."""

from deim.structures.memory import Memory
from deim.structures.prediction_group import PredictionGroup
from deim.structures.predictions import EdgeDistributions, Predictions, Targets

__all__ = ["EdgeDistributions", "Memory", "PredictionGroup", "Predictions", "Targets"]
