"""Names of the trackers, and the packages that they need."""

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from deim.engine.trackers.tracker import Tracker
from deim.errors import ConfigError

# Name in train.trackers, which is also that of the extra and of the module in this package -> (package, class).
TRACKERS = {
    "mlflow": ("mlflow", "MlflowTracker"),
    "clearml": ("clearml", "ClearmlTracker"),
    "comet": ("comet_ml", "CometTracker"),
}


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError if a name is unknown, or the package of a tracker is not installed."""
    if isinstance(names, str):
        raise ConfigError(f"train.trackers must be a list, such as [{names}], got {names!r}")
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"train.trackers: unknown tracker {name!r}; choose from {', '.join(TRACKERS)}")
        if importlib.util.find_spec(TRACKERS[name][0]) is None:
            raise ConfigError(
                f"train.trackers=[{name}] needs the package {TRACKERS[name][0]}: pip install 'deim[{name}]'"
            )


def open_tracker(name: str, folder: Path, run_id: str | None = None) -> Tracker:
    """Start a run in a tracker, or continue one.

    Args:
        name: one of :data:`TRACKERS`.
        folder: output folder of the run. Its name is that of the run in the tracker.
        run_id: identifier of a run to continue.
    """
    module = importlib.import_module(f"deim.engine.trackers.{name}")
    return getattr(module, TRACKERS[name][1])(folder, run_id)
