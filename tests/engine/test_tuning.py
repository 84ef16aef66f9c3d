"""The search over config keys, ``deim tune``; most tests replace the training runs by a small script."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import deim
from deim.cli import main
from deim.cli.tune import _slots
from deim.errors import ConfigError
from deim.jobs import tuning
from deim.jobs.search_results import find_best
from deim.jobs.search_space import parse_search, shorten_schedule
from deim.jobs.tuning import Search, SearchSettings
from deim.processes import PREEMPTED_EXIT_STATUS, child_command, deim_environment
from deim.visualization.search import TrialSummary, draw_search
from tests.commands import SMALL

RECIPE = "deimv2/deimv2_hgnetv2_atto_shapes"

CFG = OmegaConf.create({"lr": 0.1, "size": 4, "weight": 2.0, "mode": "a", "stages": [1, 2]})


def test_ranges_and_choices_are_parsed() -> None:
    words = ["lr=1e-3:1:log", "size=2:8", "weight=1:5", "mode=a,b", "stages=[1,2],[3,4]"]
    lr, size, weight, mode, stages = parse_search(words, CFG)
    assert (lr.low, lr.high, lr.is_log, lr.is_integer) == (0.001, 1, True, False)
    assert size.is_integer
    assert not weight.is_integer, "the config has a float"
    assert mode.choices == ("a", "b")
    assert stages.choices == ("[1,2]", "[3,4]")
    assert [d.find(OmegaConf.select(CFG, d.key)) for d in (lr, size, mode, stages)] == [0.1, 4, "a", "[1,2]"]
    assert parse_search(["lr=1:2"], CFG)[0].find(0.1) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lr"], "write key=low:high"),
        (["lr=3"], "write key=low:high"),
        (["lr=2:1"], "below the upper bound"),
        (["lr=0:1:log"], "must be above 0"),
        (["lr=1:2", "lr=3,4"], "more than once"),
    ],
)
def test_malformed_searches_are_errors(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_search(words, CFG)


def test_schedules_are_shortened_proportionally() -> None:
    schedule = {"epochs": 40, "flat_epochs": 20, "no_aug_epochs": 2, "dense_epochs": [4, 20], "eval_epochs": 1}
    assert shorten_schedule(OmegaConf.create({"schedule": schedule}), 10) == [
        "schedule.epochs=10",
        "schedule.flat_epochs=5",
        "schedule.no_aug_epochs=1",
        "schedule.eval_epochs=1",
        "schedule.dense_epochs=[1,5]",
    ]
    short = shorten_schedule(OmegaConf.create({"schedule": schedule}), 1)
    assert short[:3] == ["schedule.epochs=1", "schedule.flat_epochs=1", "schedule.no_aug_epochs=0"], "they must fit"
    with pytest.raises(ConfigError, match="needs a recipe with schedule"):
        shorten_schedule(CFG, 10)


def test_gpus_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert _slots("0,1") == ["5", "7"]
    assert _slots(None) == [None]
    with pytest.raises(ConfigError, match="this machine has 2 GPUs, and none is numbered 2"):
        _slots("1,2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert _slots("1") == ["1"]


def test_plot_shows_all_states(tmp_path: Path) -> None:
    values = {"lr": 0.1, "mode": "a"}
    trials = [
        TrialSummary(0, "complete", values, [10.0, 20.0], 20.0, 1.0),
        TrialSummary(1, "pruned", values | {"mode": "b"}, [5.0], 5.0, 0.5),
        TrialSummary(2, "fail", values, [], None, 0.1),
    ]
    draw_search(trials, "bbox/AP", ["lr"], tmp_path / "search.png")
    draw_search([], "bbox/AP", [], tmp_path / "empty.png")
    assert (tmp_path / "search.png").stat().st_size > (tmp_path / "empty.png").stat().st_size > 0


def test_optuna_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    words = ["--config-file", RECIPE, "--trials", "1", "--study", str(tmp_path), "--search", "optimizer.lr=1e-3:1e-2"]
    assert main(["tune", *words]) == 2
    assert "pip install 'deim[tune]'" in capsys.readouterr().err


# Writes metrics.json like a run whose AP grows to 50 - 1000 * |lr - 0.01|, and fails for lr above 0.05. With the variable
# INTERRUPT, it signals the search after the second evaluation, and with the variable PAUSE, it waits between evaluations.
FAKE_RUN = """
import json, os, signal, sys, time
options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
lr, folder = float(options["optimizer.lr"]), options["train.output_dir"]
print(os.environ.get("CUDA_VISIBLE_DEVICES"), "--resume" in sys.argv, flush=True)
if lr > 0.05:
    sys.exit("RuntimeError: loss is NaN")
for epoch in range(1, 5):
    time.sleep(float(os.environ.get("PAUSE", 0)))
    with open(f"{folder}/metrics.json", "a") as file:
        ap = (50 - 1000 * abs(lr - 0.01)) * epoch / 4
        file.write(json.dumps({"iteration": epoch, "bbox/AP": ap}) + "\\n")
    if epoch == 2 and "INTERRUPT" in os.environ:
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(30)
"""


@pytest.fixture
def fake_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace training runs by a script."""
    pytest.importorskip("optuna")
    script = tmp_path / "run.py"
    script.write_text(FAKE_RUN)
    monkeypatch.setattr(tuning, "child_command", lambda *words: [sys.executable, str(script), *words])
    monkeypatch.setattr(tuning, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr("deim.jobs.search_results.draw_search", lambda *arguments: None)


def search_for(values: str, folder: Path, *enqueued: str) -> Search:
    """Return a search over learning rates that tries the recipe's own value first, if it is one of the values."""
    search = Search(SearchSettings(RECIPE, [f"optimizer.lr={values}"]), folder)
    for value in enqueued:
        search.study.enqueue_trial({"optimizer.lr": value})
    return search


def tune(folder: Path, values: str, *words: str) -> int:
    return main(["tune", "--config-file", RECIPE, "--study", str(folder), "--search", values, *words])


@pytest.mark.usefixtures("fake_runs")
def test_values_that_depend_on_the_number_of_images_are_not_tried_first(tmp_path: Path) -> None:
    """The recipe's EMA decay is scaled when a run has read its data."""
    overrides = ["train.reference_batch_size=8", "train.reference_dataset_size=600"]
    words = ["train.model_ema.decay=0.9:0.9999"]
    search = Search(SearchSettings(RECIPE, words, overrides=overrides), tmp_path / "scaled")
    assert not search.study.get_trials()
    unscaled = Search(SearchSettings(RECIPE, words), tmp_path / "unscaled")
    assert len(unscaled.study.get_trials()) == 1


@pytest.mark.usefixtures("fake_runs")
def test_search_continues_after_failures_and_reports_the_best(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, values = tmp_path / "study", "optimizer.lr=0.001,0.02,0.06,0.004"
    assert tune(folder, values, "--trials", "10", "train.log_period=5") == 0
    trials = json.loads((folder / "results.json").read_text())["trials"]
    assert {t["values"]["optimizer.lr"]: (t["state"], t["best"]) for t in trials} == {
        "0.004": ("complete", 44),
        "0.001": ("complete", 41),
        "0.02": ("complete", 40),
        "0.06": ("fail", None),
    }
    assert len(trials) == 4, "repeated values are not trained again"
    assert trials[0]["values"] == {"optimizer.lr": "0.004"}, "the recipe's own value comes first"
    assert trials[0]["scores"] == [11, 22, 33, 44]
    output = capsys.readouterr().out
    assert "it finds only values that it has tried" in output
    assert "failed, exit status 1: RuntimeError: loss is NaN" in output
    assert "best: trial 0, bbox/AP 44.0" in output
    assert output.endswith(f"deim train --config-file {RECIPE} train.log_period=5 optimizer.lr=0.004\n")

    assert tune(folder, values, "--trials", "10", "schedule.epochs=9") == 2
    assert "holds another search; choose another --study" in capsys.readouterr().err


@pytest.mark.usefixtures("fake_runs")
def test_bad_trials_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAUSE", "0.3")
    search = search_for("0.001:0.04", tmp_path / "study", "0.01", "0.011", "0.009", "0.03")
    search.run(5, ["0"], lambda: None)
    *complete, last = search.summaries()
    assert [trial.state for trial in complete] == ["complete"] * 4
    assert last.state == "pruned"
    assert len(last.scores) < 4
    assert find_best([*complete, last]) == complete[1]


@pytest.mark.usefixtures("fake_runs")
def test_stopped_trial_may_leave_an_incomplete_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    search = search_for("0.001:0.04", tmp_path / "study")
    trial = search._ask()
    folder = search.folder(trial.number)
    folder.mkdir()
    (folder / "metrics.json").write_text('{"iteration": 1, "bbox', encoding="utf-8")
    search._finish(tuning._Run(trial, folder, None, process=None, is_pruned=True), 1)
    assert [summary.state for summary in search.summaries()] == ["pruned"]
    assert "stopped after 0 evaluations" in capsys.readouterr().out


@pytest.mark.usefixtures("fake_runs")
def test_each_gpu_runs_one_trial_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAUSE", "0.1")
    search = search_for("0.001:0.04", tmp_path / "study")
    search.run(4, ["3", "5"], lambda: None)
    gpus = [(search.folder(number) / "output.txt").read_text().split()[0] for number in range(4)]
    assert sorted(gpus) == ["3", "3", "5", "5"]
    assert set(gpus[:2]) == {"3", "5"}


@pytest.mark.usefixtures("fake_runs")
def test_interrupted_trials_are_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERRUPT", "1")
    with pytest.raises(SystemExit) as exit_info:
        search_for("0.001:0.04", tmp_path / "study").run(1, [None], lambda: None)
    assert exit_info.value.code == PREEMPTED_EXIT_STATUS
    monkeypatch.delenv("INTERRUPT")
    search = search_for("0.001:0.04", tmp_path / "study")
    assert [trial.state for trial in search.summaries()] == ["running"]
    search.run(1, [None], lambda: None)
    (trial,) = search.summaries()
    assert (trial.state, trial.values, trial.best) == ("complete", {"optimizer.lr": 0.004}, 44)
    assert (search.folder(0) / "output.txt").read_text().count("True") == 2, "both runs get --resume"


def test_only_one_process_searches_in_a_directory(tmp_path: Path) -> None:
    (tmp_path / "search.pid").write_text(f"{os.getpid()} 1.0")  # an earlier process with this number
    with tuning._exclusive(tmp_path), pytest.raises(ConfigError, match="is searching in"), tuning._exclusive(tmp_path):
        pass
    assert not (tmp_path / "search.pid").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [("optimizer.rate=1e-5:1e-3", "unknown key 'optimizer.rate'"), ("optimizer.lr=fast,slow", "must be a number")],
)
def test_invalid_keys_and_values_are_refused_at_once(
    values: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert tune(tmp_path / "study", values, "--trials", "1") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_runs_of_a_search_are_child_processes() -> None:
    process = subprocess.run(
        child_command("--version"), env=deim_environment(), capture_output=True, text=True, check=True
    )
    assert process.stdout == f"deim {deim.__version__}\n"


@pytest.mark.long
def test_search_with_real_runs(shapes: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    settings = [*SMALL, "model.decoder.queries.num_queries=20", "schedule.eval_epochs=1"]
    options = ["--data", str(shapes), "--epochs", "2", "--trials", "2", *settings]
    assert tune(tmp_path / "study", "optimizer.lr=1e-4:1e-2:log", *options) == 0
    assert (tmp_path / "study" / "search.png").is_file()


def test_first_trial_has_the_learning_rate_scaled_to_the_batch_size(shapes: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    settings = SearchSettings(
        config_file="deim_dfine/deim_dfine_n_coco",
        search=["optimizer.lr=1e-5:1e-2:log"],
        data=str(shapes),
        overrides=["dataloader.train.total_batch_size=4"],
    )
    (trial,) = Search(settings, tmp_path / "search").study.get_trials()
    assert trial.system_attrs["fixed_params"] == {"optimizer.lr": pytest.approx(8e-4 * 4 / 128)}
    from_random_weights = replace(settings, config_file=RECIPE)
    assert not Search(from_random_weights, tmp_path / "random").study.get_trials(), "depends on the number of images"
