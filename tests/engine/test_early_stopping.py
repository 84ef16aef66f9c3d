"""Early stopping: the run skips to its final epochs, then ends, and resumes in the same state."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils.events import JSONWriter
from fvcore.common.param_scheduler import ParamScheduler
from torch import nn

from deim.checkpoint.run_checkpointer import RunCheckpointer
from deim.engine import Trainer
from deim.engine.hooks import (
    BestCheckpointer,
    EarlyStoppingHook,
    EvaluationResumeHook,
    MetricsResumeHook,
    MetricsWriter,
    PeriodicCheckpointer,
)
from deim.errors import ConfigError


class Model(nn.Module):
    """Model whose weight decreases by the learning rate times the value of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, samples: list[dict]) -> dict:
        return {"loss": self.weight * samples[0]["value"]}


class Loader:
    """Loader whose batches contain the number of their iteration."""

    start_iter = 0

    def __iter__(self) -> Iterator[list[dict]]:
        for iteration in range(self.start_iter, 10**6):
            yield [{"value": iteration}]


class Multiplier(ParamScheduler):
    def __call__(self, where: float) -> float:
        return 1.0 if where < 0.5 else 0.5


class Recorder(HookBase):
    """Hook that records iteration, value of the batch and learning rate of each step."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int, float]] = []

    def after_step(self) -> None:
        rate = self.trainer.optimizer.param_groups[0]["lr"]
        self.steps.append((self.trainer.iter, self.trainer.samples[0]["value"], rate))


class Killed(BaseException):
    """Kills the run."""


class Killer(HookBase):
    def __init__(self, iteration: int | None) -> None:
        self.iteration = iteration

    def after_step(self) -> None:
        if self.trainer.iter == self.iteration:
            raise Killed


def train(
    folder: Path,
    scores: dict[int, float],
    final_iter: int | None = None,
    resume: bool = False,
    kill_at: int | None = None,
    iterations: int = 40,
    **options,
) -> tuple[Recorder, Trainer]:
    """Train with an evaluation after every second iteration; ``scores`` are the results by iteration."""
    folder.mkdir(exist_ok=True)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    trainer = Trainer(model, Loader(), optimizer)
    checkpointer = RunCheckpointer(model, str(folder), trainer=trainer)
    recorder = Recorder()
    best = BestCheckpointer(2, checkpointer, "bbox/AP")
    early = EarlyStoppingHook(
        lambda iteration: checkpointer.save("model_final", iteration=iteration),
        eval_period=2,
        final_iter=final_iter,
        **{"metric": "bbox/AP", "patience": 2, "min_delta": 0.0, **options},
    )
    metrics_file = str(folder / "metrics.json")
    writer = MetricsWriter([JSONWriter(metrics_file)], 3, 2, metrics_file)
    evaluation = hooks.EvalHook(2, lambda: {"bbox": {"AP": scores[trainer.iter]}})
    trainer.register_hooks(
        [
            recorder,
            hooks.LRScheduler(scheduler=Multiplier()),
            MetricsResumeHook(writer),
            PeriodicCheckpointer(checkpointer, 2),
            evaluation,
            best,
            early,
            writer,
            EvaluationResumeHook(2, checkpointer, [evaluation, best, early, writer]),
            Killer(kill_at),
        ]
    )
    start = 0
    if resume:
        path = checkpointer.newest_intact()
        assert path is not None
        checkpointer.load(path)
        start = trainer.iter + 1
    trainer.train(start, iterations)
    return recorder, trainer


def logged(folder: Path) -> list[dict]:
    """Return the lines of ``metrics.json`` without timings."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if "time" not in name} for line in lines]


def last_checkpoint(folder: Path) -> dict:
    return torch.load(folder / (folder / "last_checkpoint").read_text(encoding="utf-8"), weights_only=True)


def test_run_ends_after_patience_evaluations_without_improvement(tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    recorder, trainer = train(tmp_path, {1: 10.0, 3: 30.0, 5: 30.0, 7: 29.0})
    assert [step[0] for step in recorder.steps] == list(range(8))
    assert trainer.iter == 7
    assert "bbox/AP has not improved by more than 0 in 2 evaluations (best: 30.000 after iteration 3)" in caplog.text
    assert "ending the run after iteration 7" in caplog.text
    assert json.loads((tmp_path / "model_best.json").read_text()) == {"value": 30, "iteration": 3}
    assert (tmp_path / "last_checkpoint").read_text(encoding="utf-8") == "model_final.pth"
    assert last_checkpoint(tmp_path)["iteration"] == 7


def test_resumed_run_that_has_ended_does_nothing(tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    train(tmp_path, {1: 10.0, 3: 9.0, 5: 9.0})
    before, lines = last_checkpoint(tmp_path), logged(tmp_path)
    recorder, trainer = train(tmp_path, {}, resume=True)
    assert logged(tmp_path) == lines
    assert recorder.steps == []
    assert trainer.iter == 5
    assert "has ended after iteration 5" in caplog.text
    assert last_checkpoint(tmp_path)["model"] == before["model"]


def test_minimum_improvement(tmp_path: Path) -> None:
    scores = {1: 10.0, 3: 10.4, 5: 10.6, 7: 11.0, 9: 11.1}
    recorder, _ = train(tmp_path, scores, min_delta=0.5)
    assert len(recorder.steps) == 10, "10.6 exceeds 10 by 0.6; 11.1 is the second that exceeds 10.6 by too little"


def test_run_skips_to_the_final_epochs_with_their_data_and_learning_rate(tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    scores = {1: 10.0, 3: 9.0, 5: 9.0, 31: 9.0, 33: 12.0, 35: 11.0, 37: 11.0}
    recorder, trainer = train(tmp_path, scores, final_iter=30)
    assert [step[0] for step in recorder.steps] == [*range(6), *range(30, 38)]
    assert all(iteration == value for iteration, value, _ in recorder.steps)
    assert [rate for _, _, rate in recorder.steps] == [1.0] * 6 + [0.5] * 8
    assert "skipping from iteration 6 to the final epochs at 30" in caplog.text
    assert trainer.iter == 37


def test_run_completes_its_final_epochs_if_they_are_shorter_than_the_patience(tmp_path: Path) -> None:
    scores = {1: 10.0, 3: 9.0, 5: 9.0, 37: 9.0, 40: 8.0}
    recorder, trainer = train(tmp_path, scores, final_iter=36)
    assert [step[0] for step in recorder.steps] == [*range(6), *range(36, 40)]
    assert trainer.iter == 40


@pytest.mark.parametrize("kill_at", [2, 4, 5, 30, 31, 34])
def test_killed_run_resumes_with_the_same_decisions(tmp_path: Path, kill_at: int) -> None:
    scores = {1: 10.0, 3: 9.0, 5: 9.0, 31: 9.0, 33: 12.0, 35: 11.0, 37: 11.0}
    whole, _ = train(tmp_path / "whole", scores, final_iter=30)
    with pytest.raises(Killed):
        train(tmp_path / "killed", scores, final_iter=30, kill_at=kill_at)
    resumed, trainer = train(tmp_path / "killed", scores, final_iter=30, resume=True)
    assert trainer.iter == 37
    assert resumed.steps == whole.steps[-len(resumed.steps) :]
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")
    states = [last_checkpoint(tmp_path / name) for name in ("whole", "killed")]
    assert states[0]["model"] == states[1]["model"]
    assert states[0]["trainer"]["hooks"] == states[1]["trainer"]["hooks"]


def test_missing_metric_has_no_effect(tmp_path: Path, caplog) -> None:
    recorder, _ = train(tmp_path, dict.fromkeys(range(41), 1.0), metric="segm/AP")
    assert len(recorder.steps) == 40
    assert "no metric segm/AP" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [({"patience": 0}, "patience"), ({"min_delta": -1.0}, "min_delta"), ({"eval_period": 0}, "train.eval_period")],
)
def test_invalid_values_are_errors(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EarlyStoppingHook(
            print,
            **{"metric": "bbox/AP", "patience": 1, "min_delta": 0.0, "eval_period": 1, "final_iter": None, **options},
        )
