"""Boxes, predictions and the distributions that boxes are read from."""

from deim.structures.predictions import EdgeDistributions, Predictions, Targets

__all__ = ["EdgeDistributions", "Predictions", "Targets"]
