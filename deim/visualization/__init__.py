"""Plots and annotated images."""

from deim.visualization.curves import draw_metrics, draw_runs, last_scores, read_scores
from deim.visualization.objects import draw_detections, draw_objects
from deim.visualization.statistics import draw_statistics

__all__ = [
    "draw_detections",
    "draw_metrics",
    "draw_objects",
    "draw_runs",
    "draw_statistics",
    "last_scores",
    "read_scores",
]
