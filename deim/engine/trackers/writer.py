"""Writer of a run's scalars to a tracker, which never stops the run."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.utils.events import EventWriter, get_event_storage

from deim.engine.trackers.registry import open_tracker
from deim.engine.trackers.tracker import Tracker

logger = logging.getLogger("detectron2.deim")

# File in the output folder with the run's identifiers: {name of the tracker: identifier}.
RUN_IDS = "trackers.json"
_CHECKPOINTS = ("model_best.pth", "model_final.pth")


class TrackerWriter(EventWriter):
    """Writer to one tracker.

    The first error of the tracker, such as that of a missing network, is logged as a warning. The tracker is not used any
    more after this error, and the run continues.

    Args:
        name: one of :data:`deim.engine.trackers.registry.TRACKERS`.
        folder: output folder of the run. A run whose identifier is in the folder is continued.
        window_size: number of iterations for the median of noisy scalars.
    """

    def __init__(self, name: str, folder: Path, window_size: int = 20):
        self.name, self._folder, self._window_size = name, folder, window_size
        self._tracker: Tracker | None = None
        self._last_write = -1
        try:
            self._open()
        except Exception as error:  # those of the tracker's library, which has no common base class
            self._give_up(error)

    def _open(self) -> None:
        run_ids = _read_run_ids(self._folder)
        self._tracker = open_tracker(self.name, self._folder, run_ids.get(self.name))
        content = json.dumps(run_ids | {self.name: self._tracker.run_id})
        (self._folder / RUN_IDS).write_text(content, encoding="utf-8")
        if self.name not in run_ids:
            file = self._folder / "config.yaml"
            self._tracker.log_config(_flatten(yaml.safe_load(file.read_text(encoding="utf-8"))), file)

    def write(self) -> None:
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size)
        by_step: dict[int, dict[str, float]] = {}
        for name, (value, step) in latest.items():
            if step > self._last_write:
                by_step.setdefault(step, {})[name] = float(value)
        for step, values in sorted(by_step.items()):
            self._call("log_metrics", values, step)
        self._last_write = max(by_step, default=self._last_write)

    def attach(self, file: Path) -> None:
        """Upload a file."""
        self._call("log_artifact", file)

    def close(self) -> None:
        for name in _CHECKPOINTS:
            path = self._folder / name
            if path.is_file():
                self._call("log_note", path.stem, str(path.absolute()))
        self._call("close")
        self._tracker = None

    def _call(self, method: str, *arguments: Any) -> None:
        """Call a method of the tracker, unless the tracker has failed before."""
        if self._tracker is None:
            return
        try:
            getattr(self._tracker, method)(*arguments)
        except Exception as error:  # as above
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        reason = " ".join(str(error).split()) or type(error).__name__
        logger.warning(f"The tracker {self.name} fails, and is not used any more in this run: {reason[:300]}")
        self._tracker = None


def build_tracker_writers(names: Sequence[str], folder: str) -> list[TrackerWriter]:
    """Return the writers for ``train.trackers``; call this function on the main process only."""
    return [TrackerWriter(name, Path(folder)) for name in names]


def attach_to_trackers(names: Sequence[str], folder: str, file: Path) -> None:
    """Upload a file to the trackers of a run that has ended."""
    for writer in build_tracker_writers([name for name in names if name in _read_run_ids(Path(folder))], folder):
        writer.attach(file)
        writer.close()


def _read_run_ids(folder: Path) -> dict[str, str]:
    file = folder / RUN_IDS
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _flatten(node: Any, prefix: str = "") -> Mapping[str, str]:
    """Return {dotted key: text of the value} of a config."""
    if isinstance(node, dict) and node:
        return {
            key: text
            for name, value in node.items()
            for key, text in _flatten(value, f"{prefix}.{name}" if prefix else str(name)).items()
        }
    return {prefix: str(node)}
