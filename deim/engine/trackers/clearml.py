"""ClearML."""

import os
from collections.abc import Mapping
from pathlib import Path

# Automatic logging that is disabled. It would log metrics again and upload every checkpoint. The detection of the git
# repository starts processes from a thread during the training, which can block the end of a run for five minutes.
_AUTOMATIC = (
    *("catboost", "detect_repository", "fastai", "gradio", "hydra", "joblib", "lightgbm", "matplotlib", "megengine"),
    *("pytorch", "scikit", "tensorboard", "tensorflow", "tfdefines", "xgboost"),
)


class ClearmlTracker:
    """A task of ClearML, in the project ``CLEARML_PROJECT`` or "deim", on the server of ClearML's own configuration.

    With ``CLEARML_OFFLINE_MODE=1``, the task is written to a local folder, and every process of a run has its own task.
    """

    def __init__(self, folder: Path, run_id: str | None = None):
        from clearml import Task

        self._task = Task.init(
            project_name=os.environ.get("CLEARML_PROJECT", "deim"),
            task_name=folder.name,
            reuse_last_task_id=False,
            continue_last_task=run_id if run_id and not Task.is_offline() else False,
            auto_connect_arg_parser=False,
            auto_connect_frameworks=dict.fromkeys(_AUTOMATIC, False),
            auto_resource_monitoring=False,
        )
        if run_id:
            # Iterations are those of the run, and do not begin after those of the earlier process.
            self._task.set_initial_iteration(0)
        self.run_id = self._task.id

    def log_config(self, values: Mapping[str, str], file: Path) -> None:
        self._task.set_parameters(dict(values))
        self._task.connect_configuration(str(file), name="config.yaml")

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        logger = self._task.get_logger()
        for name, value in values.items():
            title, _, series = name.partition("/")
            logger.report_scalar(title, series or title, value, step)

    def log_note(self, name: str, text: str) -> None:
        self._task.set_user_properties(**{name: text})

    def log_artifact(self, file: Path) -> None:
        self._task.upload_artifact(file.stem, str(file), wait_on_upload=True)

    def close(self) -> None:
        self._task.close()
