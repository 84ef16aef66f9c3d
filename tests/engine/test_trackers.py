"""Trackers of experiments: what they receive, and that their failures do not stop a run."""

import importlib
import importlib.util
import json
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from detectron2.utils.events import EventStorage

from deim.engine.trackers import TRACKERS, TrackerWriter, attach_to_trackers, build_tracker_writers, check_trackers
from deim.errors import ConfigError

CONFIG = "train: {max_iter: 3, device: cpu}\nmodel: {points: [1, 2], empty: {}, device: '${train.device}'}\n"
FLAT = {
    "train.max_iter": "3",
    "train.device": "cpu",
    "model.points": "[1, 2]",
    "model.empty": "{}",
    "model.device": "${train.device}",
}


class Recorder:
    """Tracker in memory."""

    def __init__(self, folder: Path, run_id: str | None):
        self.run_id, self.calls = run_id or "run-1", [("open", folder.name, run_id)]

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.calls.append((name, *arguments))


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """Replace every tracker by a recorder, and return the recorders in the order in which they are opened."""
    opened: list[Recorder] = []

    def open_recorder(name: str, folder: Path, run_id: str | None) -> Recorder:
        opened.append(Recorder(folder, run_id))
        return opened[-1]

    monkeypatch.setattr("deim.engine.trackers.writer.open_tracker", open_recorder)
    return opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "my_run"
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    return folder


def run(folder: Path, name: str = "mlflow", first: int = 0) -> TrackerWriter:
    """Write the scalars of three iterations, and the final checkpoint."""
    (writer,) = build_tracker_writers([name], str(folder))
    with EventStorage(first) as storage:
        for iteration in range(first, first + 3):
            storage.iter = iteration
            storage.put_scalar("total_loss", 3.0 - iteration, smoothing_hint=False)
            if iteration == 1:
                storage.put_scalar("bbox/AP-dog & x", 12.5, smoothing_hint=False)
            writer.write()
        (folder / "model_final.pth").touch()
        writer.close()
    return writer


def test_tracker_receives_config_metrics_and_checkpoint(folder: Path, recorders: list[Recorder]) -> None:
    run(folder)
    (recorder,) = recorders
    assert recorder.calls == [
        ("open", "my_run", None),
        ("log_config", FLAT, folder / "config.yaml"),
        ("log_metrics", {"total_loss": 3.0}, 0),
        ("log_metrics", {"total_loss": 2.0, "bbox/AP-dog & x": 12.5}, 1),
        ("log_metrics", {"total_loss": 1.0}, 2),
        ("log_note", "model_final", str(folder / "model_final.pth")),
        ("close",),
    ]
    assert json.loads((folder / "trackers.json").read_text(encoding="utf-8")) == {"mlflow": "run-1"}


def test_resumed_run_and_report_continue_the_run(folder: Path, recorders: list[Recorder]) -> None:
    run(folder)
    run(folder, first=3)
    attach_to_trackers(["mlflow", "comet"], str(folder), folder / "report.html")
    _, resumed, report = recorders
    assert resumed.calls[:2] == [("open", "my_run", "run-1"), ("log_metrics", {"total_loss": 0.0}, 3)]
    assert report.calls[:2] == [("open", "my_run", "run-1"), ("log_artifact", folder / "report.html")]


@pytest.mark.parametrize("method", ["open", "log_config", "log_metrics", "log_note", "close"])
def test_failing_tracker_logs_one_warning(
    folder: Path,
    recorders: list[Recorder],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
) -> None:
    def fail(*arguments: Any) -> None:
        raise ConnectionError("no\nroute to host")

    if method == "open":
        monkeypatch.setattr("deim.engine.trackers.writer.open_tracker", fail)
    else:
        monkeypatch.setattr(Recorder, method, fail, raising=False)
    monkeypatch.setattr(logging.getLogger("detectron2"), "propagate", True)
    run(folder)
    messages = [record.getMessage() for record in caplog.records if "tracker" in record.getMessage()]
    assert messages == ["The tracker mlflow fails, and is not used any more in this run: no route to host"]


def test_unknown_tracker_and_missing_package_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="unknown tracker 'tensorboard'; choose from mlflow, clearml, comet"):
        check_trackers(["tensorboard"])
    with pytest.raises(ConfigError, match=r"must be a list, such as \[mlflow\]"):
        check_trackers("mlflow")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in TRACKERS:
        with pytest.raises(ConfigError, match=rf"pip install 'deim\[{name}\]'"):
            check_trackers([name])


def fake_modules(**modules: dict[str, Any]) -> Any:
    """Replace modules, given with their attributes; underscores stand for dots."""
    created = {}
    for name, attributes in modules.items():
        module = ModuleType(name.replace("__", "."))
        vars(module).update(attributes)
        created[module.__name__] = module
    return mock.patch.dict(sys.modules, created)


def test_mlflow_calls(folder: Path) -> None:
    client = mock.Mock()
    client.get_experiment_by_name.return_value = None
    client.create_run.return_value.info.run_id = "abc"
    entities = {"Param": lambda key, value: (key, value), "Metric": lambda key, value, time, step: (key, value, step)}
    with fake_modules(mlflow={}, mlflow__tracking={"MlflowClient": lambda: client}, mlflow__entities=entities):
        run(folder)
    client.create_experiment.assert_called_once_with("deim")
    assert client.create_run.call_args.kwargs == {"run_name": "my_run"}
    batches = [call.kwargs for call in client.log_batch.call_args_list]
    assert batches[0]["params"] == [(key, FLAT[key]) for key in FLAT]
    assert batches[2]["metrics"] == [("total_loss", 2.0, 1), ("bbox/AP-dog _ x", 12.5, 1)]
    client.set_tag.assert_called_once_with("abc", "model_final", str(folder / "model_final.pth"))
    client.log_artifact.assert_called_once_with("abc", str(folder / "config.yaml"))
    client.set_terminated.assert_called_once_with("abc")


def test_clearml_calls(folder: Path) -> None:
    task = mock.Mock(id="abc")
    init = mock.Mock(return_value=task)
    with fake_modules(clearml={"Task": SimpleNamespace(init=init, is_offline=lambda: False)}):
        run(folder, "clearml")
        assert init.call_args.kwargs["task_name"] == "my_run"
        assert not any(init.call_args.kwargs["auto_connect_frameworks"].values())
        assert init.call_args.kwargs["continue_last_task"] is False
        attach_to_trackers(["clearml"], str(folder), folder / "report.html")
        assert init.call_args.kwargs["continue_last_task"] == "abc"
    task.set_parameters.assert_called_once_with(FLAT)
    values = [call.args for call in task.get_logger().report_scalar.call_args_list]
    assert ("bbox", "AP-dog & x", 12.5, 1) in values
    assert ("total_loss", "total_loss", 1.0, 2) in values
    task.set_user_properties.assert_called_with(model_final=str(folder / "model_final.pth"))
    task.upload_artifact.assert_called_once_with("report", str(folder / "report.html"), wait_on_upload=True)


@pytest.mark.parametrize("key", [None, "secret"])
def test_comet_calls(folder: Path, key: str | None) -> None:
    experiment, start = mock.Mock(), mock.Mock()
    experiment.get_key.return_value, start.return_value = "abc", experiment
    config = SimpleNamespace(get_config=lambda name: key)
    with fake_modules(comet_ml={"start": start, "config": config, "ExperimentConfig": lambda **values: values}):
        run(folder, "comet")
    assert start.call_args.kwargs["online"] is (key is not None)
    assert (folder / "comet").is_dir() is (key is None)
    experiment.log_parameters.assert_called_once_with(FLAT)
    assert mock.call({"total_loss": 2.0, "bbox/AP-dog & x": 12.5}, step=1) in experiment.log_metrics.call_args_list
    experiment.log_other.assert_called_once_with("model_final", str(folder / "model_final.pth"))
    experiment.log_asset.assert_called_once_with(str(folder / "config.yaml"), file_name="config.yaml")
    experiment.end.assert_called_once_with()


def test_mlflow_stores_a_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="needs mlflow")
    pytest.importorskip("alembic", reason="needs the whole package mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    run(folder)
    (folder / "report.html").write_text("report", encoding="utf-8")
    attach_to_trackers(["mlflow"], str(folder), folder / "report.html")
    client = importlib.import_module("mlflow.tracking").MlflowClient()
    experiment = client.get_experiment_by_name("deim")
    (stored,) = client.search_runs([experiment.experiment_id])
    assert stored.info.run_name == "my_run"
    assert stored.data.params["model.points"] == "[1, 2]"
    assert stored.data.tags["model_final"] == str(folder / "model_final.pth")
    history = client.get_metric_history(stored.info.run_id, "total_loss")
    assert [(metric.step, metric.value) for metric in history] == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert sorted(entry.path for entry in client.list_artifacts(stored.info.run_id)) == ["config.yaml", "report.html"]


def test_comet_stores_an_archive(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("comet_ml", reason="needs comet_ml")
    monkeypatch.delenv("COMET_API_KEY", raising=False)
    run(folder, "comet")
    assert len(list((folder / "comet").glob("*.zip"))) == 1


def test_clearml_stores_an_archive(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clearml = pytest.importorskip("clearml", reason="needs clearml")
    monkeypatch.setenv("CLEARML_CACHE_DIR", str(tmp_path / "cache"))
    clearml.Task.set_offline(True)
    writer = run(folder, "clearml")
    assert writer.name == "clearml"
    identifier = json.loads((folder / "trackers.json").read_text(encoding="utf-8"))["clearml"]
    assert identifier.startswith("offline-")
