"""Final epochs: restart from the best checkpoint, and again after each evaluation without improvement."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase, hooks
from detrex.modeling.ema import EMAState
from torch import nn

from deim.engine import EMAHook, Trainer
from deim.engine.hooks import BestCheckpointer
from deim.engine.hooks.final_stage import FinalStageHook


class CountingModel(nn.Module):
    """Model whose weight decreases by one in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, samples: list) -> dict:
        return {"loss": self.weight * 1.0}


class Recorder(HookBase):
    """Hook that records the weight and the EMA decay after each iteration."""

    def __init__(self, ema_hook: EMAHook) -> None:
        self.ema_hook = ema_hook
        self.weights: list[float] = []
        self.decays: list[float] = []

    def after_step(self) -> None:
        self.weights.append(-self.trainer.model.weight.item())
        self.decays.append(round(self.ema_hook.decay, 6))


def train(
    folder: Path,
    scores: dict[int, float],
    iterations: int,
    start_iter: int,
    decay: float | None = 0.9,
    resume_at: int = 0,
    restarts: bool = True,
) -> Recorder:
    """Train with an evaluation after every second iteration; ``scores`` are the results by number of iterations."""
    model = CountingModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    trainer = Trainer(model, [[{}]] * iterations, optimizer)
    ema_hook = EMAHook(model, EMAState(), decay=0.5, warmup_iters=0)
    checkpointer = DetectionCheckpointer(model, str(folder), trainer=trainer, ema_state=ema_hook.state)
    best_checkpointer = BestCheckpointer(2, checkpointer, "bbox/AP")
    final_stage_hook = FinalStageHook(
        checkpointer,
        ema_hook,
        best_checkpointer,
        start_iter=start_iter,
        eval_period=2,
        metric="bbox/AP",
        decay=decay,
        restarts=restarts,
    )
    recorder = Recorder(ema_hook)

    results = iter(scores.values())

    def evaluate() -> dict:
        return {"bbox": {"AP": next(results)}}

    trainer.register_hooks([ema_hook, hooks.EvalHook(2, evaluate), best_checkpointer, final_stage_hook, recorder])
    trainer.train(resume_at, iterations)
    return recorder


def test_final_epochs_start_from_the_best_checkpoint(tmp_path: Path) -> None:
    recorder = train(tmp_path, {2: 10.0, 4: 30.0, 6: 20.0, 8: 40.0, 10: 50.0}, iterations=10, start_iter=6)
    # The seventh iteration starts from the weights after four iterations, which have the best score.
    assert recorder.weights == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8]
    assert recorder.decays == [0.5] * 6 + [0.9] * 4


def test_evaluation_without_improvement_restarts_the_final_epochs(tmp_path: Path) -> None:
    scores = {2: 10.0, 4: 30.0, 6: 35.0, 8: 29.0, 10: 1.0, 12: 0.5, 14: 2.0}
    recorder = train(tmp_path, scores, iterations=14, start_iter=4)
    # 35 exceeds the best score so far. 29 does not, so the run restarts from the weights after four iterations. The
    # comparison starts again: 1 is the first score, and 0.5 does not exceed it.
    assert recorder.weights == [1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6]
    assert recorder.decays == [0.5] * 4 + [0.9] * 3 + [0.8999] * 4 + [0.8998] * 3


def test_ema_decay_is_unchanged_without_a_final_decay(tmp_path: Path) -> None:
    """The official code sets a decay that its EMA does not use."""
    scores = {2: 10.0, 4: 30.0, 6: 35.0, 8: 29.0, 10: 1.0}
    recorder = train(tmp_path, scores, iterations=10, start_iter=4, decay=None)
    assert recorder.weights == [1, 2, 3, 4, 5, 6, 7, 4, 5, 6]
    assert set(recorder.decays) == {0.5}


def test_final_epochs_start_only_once_without_restarts(tmp_path: Path) -> None:
    """As in the official code of EdgeCrafter."""
    scores = {2: 10.0, 4: 30.0, 6: 20.0, 8: 29.0, 10: 1.0, 12: 35.0}
    recorder = train(tmp_path, scores, iterations=12, start_iter=6, restarts=False)
    assert recorder.weights == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8, 9, 10]
    assert json.loads((tmp_path / "model_best.json").read_text())["value"] == 35


def test_best_checkpoint_before_the_final_epochs_is_kept(tmp_path: Path) -> None:
    train(tmp_path, {2: 10.0, 4: 30.0, 6: 35.0, 8: 29.0}, iterations=8, start_iter=4)
    stored = {name: -float(torch.load(tmp_path / f"{name}.pth", weights_only=True)["model"]["weight"]) for name in
              ("model_best", "model_best_stage1")}  # fmt: skip
    assert stored == {"model_best": 6, "model_best_stage1": 4}


def test_resume_before_the_final_epochs_restores_the_best_checkpoint_before_them(tmp_path: Path) -> None:
    train(tmp_path, {2: 10.0, 4: 30.0, 6: 35.0}, iterations=6, start_iter=4)
    assert json.loads((tmp_path / "model_best.json").read_text())["value"] == 35
    # 33 exceeds the best score before the final epochs (30), but not the best of the interrupted run (35).
    recorder = train(tmp_path, {4: 30.0, 6: 33.0, 8: 34.0}, iterations=8, start_iter=4, resume_at=3)
    assert recorder.weights == [1, 5, 6, 7, 8]
    assert json.loads((tmp_path / "model_best.json").read_text()) == {"value": 34, "iteration": 8}
    assert json.loads((tmp_path / "model_best_stage1.json").read_text()) == {"value": 30, "iteration": 3}


def test_restart_restores_ema_weights_and_optimizer(tmp_path: Path) -> None:
    recorder = train(tmp_path, {2: 10.0, 4: 5.0}, iterations=4, start_iter=3)
    assert recorder.weights == [1, 2, 3, 3]
    # EMA after two steps with a decay of 0.5, then a third step with a decay of 0.9
    after_two = 0.5 * (0.5 * 0 + 0.5 * 1) + 0.5 * 2
    assert -float(recorder.ema_hook.state.state["weight"]) == pytest.approx(0.9 * after_two + 0.1 * 3)


def test_final_epochs_without_an_earlier_evaluation(tmp_path: Path) -> None:
    recorder = train(tmp_path, {2: 3.0, 4: 4.0}, iterations=4, start_iter=1)
    assert recorder.weights == [1, 2, 3, 4]
    assert recorder.decays == [0.5, 0.9, 0.9, 0.9]


def test_best_checkpoint_of_an_earlier_run_is_ignored(tmp_path: Path) -> None:
    train(tmp_path, {2: 10.0, 4: 30.0}, iterations=4, start_iter=9)
    recorder = train(tmp_path, {2: 3.0, 4: 4.0}, iterations=4, start_iter=1)
    assert recorder.weights == [1, 2, 3, 4]


def test_ema_decay_of_the_config_applies_to_a_resumed_run(tmp_path: Path) -> None:
    """The decay of a checkpoint counts only if the final epochs have changed it."""
    hook = FinalStageHook(
        DetectionCheckpointer(CountingModel(), str(tmp_path)),
        EMAHook(CountingModel(), EMAState(), decay=0.5, warmup_iters=0),
        None,
        start_iter=4,
        eval_period=2,
        metric="bbox/AP",
        decay=0.9,
    )
    hook.trainer = SimpleNamespace(iter=3)
    state = hook.state_dict()
    hook.ema_hook.decay = 0.7
    hook.load_state_dict(state)
    assert hook.ema_hook.decay == 0.7
    hook.trainer.iter = 4
    hook.load_state_dict({**hook.state_dict(), "decay": 0.9})
    assert hook.ema_hook.decay == 0.9
    assert hook.state_dict()["decay"] == 0.9
