"""Interface of a tracker of experiments."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Tracker(Protocol):
    """Connection to one run in a tracker of experiments.

    Methods may raise any exception, such as an error of the network: :class:`deim.engine.trackers.writer.TrackerWriter`
    then stops using the tracker.

    Attributes:
        run_id: identifier with which the run can be continued.
    """

    run_id: str

    def log_config(self, values: Mapping[str, str], file: Path) -> None:
        """Log the config of a run: ``values`` by dotted key, and the file ``config.yaml``."""

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log scalars of an iteration."""

    def log_note(self, name: str, text: str) -> None:
        """Log a property of the run, such as the path of a checkpoint."""

    def log_artifact(self, file: Path) -> None:
        """Upload a file."""

    def close(self) -> None:
        """Finish all uploads."""
