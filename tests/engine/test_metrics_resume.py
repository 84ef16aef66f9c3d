"""``metrics.json`` of a killed and resumed run equals that of an uninterrupted run, wherever the run is killed."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.utils.events import JSONWriter
from torch import nn

from deim.engine import Trainer
from deim.engine.hooks import MetricsResumeHook, MetricsWriter
from tests.faults.runs import scalars

ITERATIONS, PERIOD = 10, 4


class QuadraticModel(nn.Module):
    """Model whose loss changes in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, samples: list[dict]) -> dict[str, torch.Tensor]:
        return {"loss": (self.weight - samples[0]["value"]).square()}


class CallbackHook(HookBase):
    """Hook that calls a function after each iteration."""

    def __init__(self, action: Callable[[int], None]):
        self.action = action

    def after_step(self) -> None:
        self.action(self.trainer.iter)


class SparseScalarHook(HookBase):
    """Hook that logs a scalar only at some iterations."""

    def after_step(self) -> None:
        if self.trainer.iter % 3 == 2:
            self.trainer.storage.put_scalar("seldom", self.trainer.iter, smoothing_hint=False)


@dataclass
class RunHistory:
    """Checkpoint of each iteration, and ``metrics.json`` before and after the writer of the iteration."""

    states: dict[int, dict] = field(default_factory=dict)
    before: dict[int, bytes] = field(default_factory=dict)
    after: dict[int, bytes] = field(default_factory=dict)


def run(path: Path, state: dict | None = None, period: int = PERIOD) -> RunHistory:
    """Train to the end, from the beginning or a checkpoint."""
    torch.manual_seed(0)
    model, history = QuadraticModel(), RunHistory()
    start = state["iteration"] + 1 if state is not None else 0
    batches = [[{"value": float(value)}] for value in range(start, ITERATIONS)]
    trainer = Trainer(model, batches, torch.optim.SGD(model.parameters(), lr=0.1))
    writer = MetricsWriter([JSONWriter(str(path))], period, 0, str(path))

    def save(iteration: int) -> None:
        history.states[iteration] = copy.deepcopy({**trainer.state_dict(), "model": model.state_dict()})
        history.before[iteration] = path.read_bytes()

    record_metrics = CallbackHook(lambda iteration: history.after.update({iteration: path.read_bytes()}))
    trainer.register_hooks([MetricsResumeHook(writer), SparseScalarHook(), CallbackHook(save), writer, record_metrics])
    if state is not None:
        model.load_state_dict(state["model"])
        trainer.load_state_dict({name: value for name, value in state.items() if name != "model"})
    trainer.train(start, ITERATIONS)
    return history


def lines(path: Path) -> list[dict]:
    return sorted(scalars(path.parent, path.name), key=lambda line: line["iteration"])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunHistory, list[dict]]:
    path = tmp_path_factory.mktemp("whole") / "metrics.json"
    return run(path), lines(path)


def test_metrics_of_an_uninterrupted_run(uninterrupted: tuple[RunHistory, list[dict]]) -> None:
    assert [line["iteration"] for line in uninterrupted[1] if "total_loss" in line] == [3, 7, 9]
    assert [line["seldom"] for line in uninterrupted[1] if "seldom" in line] == [2, 5, 8]


@pytest.mark.parametrize("saved_at", range(ITERATIONS))
def test_resumed_metrics_equal_uninterrupted_metrics(
    saved_at: int, uninterrupted: tuple[RunHistory, list[dict]], tmp_path: Path
) -> None:
    """Resume from each checkpoint after each later kill: before, after, and in the middle of writing a line."""
    history, expected = uninterrupted
    for killed_at in range(saved_at, ITERATIONS):
        before, after = history.before[killed_at], history.after[killed_at]
        for number, content in enumerate((before, after[: len(before) + (len(after) - len(before)) * 3 // 4], after)):
            path = tmp_path / f"{killed_at}_{number}.json"
            path.write_bytes(content)
            run(path, history.states[saved_at])
            assert lines(path) == expected, (killed_at, number)


def test_written_metrics_are_kept_with_another_log_period(
    uninterrupted: tuple[RunHistory, list[dict]], tmp_path: Path
) -> None:
    history, expected = uninterrupted
    path = tmp_path / "metrics.json"
    path.write_bytes(history.after[8])
    run(path, history.states[8], period=1000)
    assert lines(path) == expected
