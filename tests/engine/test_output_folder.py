"""Each output folder holds one run."""

from pathlib import Path

import pytest

from deim.config import load_config
from deim.engine.initial_state import initial_weights_files
from deim.engine.output_folder import claim_output_folder
from deim.errors import CheckpointError, ConfigError
from tests.commands import metrics, train_net


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Create a folder with the files of a run and a file of the user."""
    files = ("metrics.json", "model_best.pth", "model_best.json", "last_checkpoint", "config.yaml", "log.txt")
    for name in (*files, "notes.txt"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    (tmp_path / "inference").mkdir()
    (tmp_path / "evaluation" / "night").mkdir(parents=True)
    return tmp_path


def test_folder_of_an_earlier_run_is_an_error(run_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"already holds a run .*--resume.*--overwrite") as raised:
        claim_output_folder(str(run_folder), overwrite=False)
    assert str(run_folder) in str(raised.value)
    assert (run_folder / "metrics.json").exists()


def test_overwrite_removes_only_the_files_of_a_run(run_folder: Path) -> None:
    claim_output_folder(str(run_folder), overwrite=True)
    assert [path.name for path in run_folder.iterdir()] == ["notes.txt"]


def test_overwrite_keeps_the_weights_that_the_run_starts_from(run_folder: Path) -> None:
    before = sorted(path.name for path in run_folder.iterdir())
    with pytest.raises(ConfigError, match=r"--overwrite would delete .*model_best.pth, from which the run starts"):
        claim_output_folder(str(run_folder), True, [str(run_folder / "model_best.pth")])
    assert sorted(path.name for path in run_folder.iterdir()) == before
    (run_folder / "dfine_s_coco.pth").touch()
    claim_output_folder(str(run_folder), True, [str(run_folder / "dfine_s_coco.pth")])
    assert sorted(path.name for path in run_folder.iterdir()) == ["dfine_s_coco.pth", "notes.txt"]


def test_missing_initial_weights_are_an_error_before_files_are_deleted(run_folder: Path) -> None:
    cfg = load_config("dfine/dfine_s_coco", [f"train.init_checkpoint={run_folder}/model_bset.pth"])
    with pytest.raises(CheckpointError, match=r"train.init_checkpoint=.*model_bset.pth does not exist"):
        initial_weights_files(cfg)
    cfg.train.init_checkpoint = str(run_folder / "model_best.pth")
    assert initial_weights_files(cfg) == [str(run_folder / "model_best.pth")]
    for name in ("coco", "https://host/model.pth", ""):
        cfg.train.init_checkpoint = name
        assert initial_weights_files(cfg) == []


@pytest.mark.parametrize("names", [(), ("notes.txt",), ("log.txt", "config.yaml", "metrics.json")])
def test_folder_without_a_run_is_unchanged(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).touch()
    claim_output_folder(str(tmp_path / "missing"), overwrite=False)
    claim_output_folder(str(tmp_path), overwrite=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_trackers_do_not_continue_a_run_without_steps(tmp_path: Path) -> None:
    (tmp_path / "trackers.json").write_text('{"mlflow": "run-1"}', encoding="utf-8")
    (tmp_path / "metrics.json").touch()
    claim_output_folder(str(tmp_path), overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_second_run_requires_overwrite(shapes: Path, tmp_path: Path) -> None:
    short = ["train.max_iter=2", "train.eval_period=0"]
    assert train_net(shapes, tmp_path, *short).returncode == 0
    second = train_net(shapes, tmp_path, *short)
    assert second.returncode == 2
    assert second.stderr.startswith(f"error: train.output_dir={tmp_path} already holds a run")
    done = train_net(shapes, tmp_path, *short, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert sorted(metrics(tmp_path)) == [0, 1]
