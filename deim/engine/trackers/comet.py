"""Comet."""

import os
from collections.abc import Mapping
from pathlib import Path


class CometTracker:
    """An experiment of Comet, in the project ``COMET_PROJECT_NAME`` or "deim".

    Without an API key, the experiment is written to the folder ``comet`` of the run, for ``comet upload``.
    """

    def __init__(self, folder: Path, run_id: str | None = None):
        import comet_ml

        is_online = bool(comet_ml.config.get_config("comet.api_key"))
        offline_folder = folder / "comet"
        if not is_online:
            offline_folder.mkdir(exist_ok=True)
        self._experiment = comet_ml.start(
            project_name=os.environ.get("COMET_PROJECT_NAME", "deim"),
            experiment_key=run_id,
            mode="get" if run_id else "create",
            online=is_online,
            experiment_config=comet_ml.ExperimentConfig(
                name=folder.name,
                offline_directory=str(offline_folder),
                # deim logs the values; automatic logging would log them again.
                disabled=False,
                log_code=False,
                parse_args=False,
                auto_metric_logging=False,
                auto_param_logging=False,
                auto_output_logging=False,
                auto_histogram_weight_logging=False,
            ),
        )
        self.run_id = self._experiment.get_key()

    def log_config(self, values: Mapping[str, str], file: Path) -> None:
        self._experiment.log_parameters(dict(values))
        self.log_artifact(file)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        self._experiment.log_metrics(dict(values), step=step)

    def log_note(self, name: str, text: str) -> None:
        self._experiment.log_other(name, text)

    def log_artifact(self, file: Path) -> None:
        self._experiment.log_asset(str(file), file_name=file.name)

    def close(self) -> None:
        self._experiment.end()
