"""MLflow."""

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

# Limits of a request: number of parameters, and characters of a value.
_MAX_PARAMETERS, _MAX_CHARACTERS = 100, 500
_INVALID = re.compile(r"[^\w\-. /]", re.ASCII)
# Without these, a server that does not answer blocks the run for several minutes.
_DEFAULTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


class MlflowTracker:
    """A run of MLflow, in the experiment ``MLFLOW_EXPERIMENT_NAME`` or "deim", on the server ``MLFLOW_TRACKING_URI``."""

    def __init__(self, folder: Path, run_id: str | None = None):
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        self.run_id = run_id or self._start(folder.name)

    def _start(self, run_name: str) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "deim")
        experiment = self._client.get_experiment_by_name(name)
        identifier = experiment.experiment_id if experiment is not None else self._client.create_experiment(name)
        return self._client.create_run(identifier, run_name=run_name).info.run_id

    def log_config(self, values: Mapping[str, str], file: Path) -> None:
        from mlflow.entities import Param

        parameters = [Param(_INVALID.sub("_", key), value[:_MAX_CHARACTERS]) for key, value in values.items()]
        for start in range(0, len(parameters), _MAX_PARAMETERS):
            self._client.log_batch(self.run_id, params=parameters[start : start + _MAX_PARAMETERS])
        self.log_artifact(file)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(_INVALID.sub("_", name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def log_note(self, name: str, text: str) -> None:
        self._client.set_tag(self.run_id, name, text)

    def log_artifact(self, file: Path) -> None:
        self._client.log_artifact(self.run_id, str(file))

    def close(self) -> None:
        self._client.set_terminated(self.run_id)
