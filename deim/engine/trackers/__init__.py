"""Trackers of experiments: MLflow, ClearML and Comet, selected by ``train.trackers``."""

from deim.engine.trackers.registry import TRACKERS, check_trackers, open_tracker
from deim.engine.trackers.tracker import Tracker
from deim.engine.trackers.writer import TrackerWriter, attach_to_trackers, build_tracker_writers

__all__ = [
    "TRACKERS",
    "Tracker",
    "TrackerWriter",
    "attach_to_trackers",
    "build_tracker_writers",
    "check_trackers",
    "open_tracker",
]
