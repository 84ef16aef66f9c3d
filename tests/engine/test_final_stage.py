"""The final epochs start from the best weights before them, and again after every evaluation that is no better."""

from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase, hooks
from detrex.modeling.ema import EMAState
from torch import nn

from deim.engine import EMAHook, Trainer
from deim.engine.final_stage import FinalStageHook
from deim.engine.hooks import BestCheckpointer


class Counter(nn.Module):
    """Its weight falls by one with every step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, samples: list) -> dict:
        return {"loss": self.weight * 1.0}


class Watch(HookBase):
    """The weight and the decay at the end of each iteration."""

    def __init__(self, averaging: EMAHook) -> None:
        self.averaging = averaging
        self.weights: list[float] = []
        self.decays: list[float] = []

    def after_step(self) -> None:
        self.weights.append(-self.trainer.model.weight.item())
        self.decays.append(round(self.averaging.decay, 6))


def train(folder: Path, scores: dict[int, float], iterations: int, start_iter: int, decay: float | None = 0.9) -> Watch:
    """Evaluate after every second iteration, with given results by the number of iterations done."""
    model = Counter()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    trainer = Trainer(model, [[{}]] * iterations, optimizer)
    averaging = EMAHook(model, EMAState(), decay=0.5, warmup_iters=0)
    checkpointer = DetectionCheckpointer(model, str(folder), trainer=trainer, ema_state=averaging.state)
    best = BestCheckpointer(2, checkpointer, "bbox/AP")
    final = FinalStageHook(
        checkpointer,
        optimizer,
        averaging,
        best,
        start_iter=start_iter,
        eval_period=2,
        metric="bbox/AP",
        decay=decay,
    )
    watch = Watch(averaging)

    results = iter(scores.values())

    def evaluate() -> dict:
        return {"bbox": {"AP": next(results)}}

    trainer.register_hooks([averaging, hooks.EvalHook(2, evaluate), best, final, watch])
    trainer.train(0, iterations)
    return watch


def test_the_final_epochs_start_from_the_best_before_them(tmp_path: Path) -> None:
    watch = train(tmp_path, {2: 10.0, 4: 30.0, 6: 20.0, 8: 40.0, 10: 50.0}, iterations=10, start_iter=6)
    # back to the weights after four iterations, then five, six, ...
    assert watch.weights == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8]
    assert watch.decays == [0.5] * 6 + [0.9] * 4


def test_an_evaluation_that_is_no_better_starts_them_again(tmp_path: Path) -> None:
    scores = {2: 10.0, 4: 30.0, 6: 35.0, 8: 29.0, 10: 1.0, 12: 0.5, 14: 2.0}
    watch = train(tmp_path, scores, iterations=14, start_iter=4)
    # 35 exceeds the best before, 29 does not: again from four. 1 is the first since then, 0.5 is worse.
    assert watch.weights == [1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6]
    assert watch.decays == [0.5] * 4 + [0.9] * 3 + [0.8999] * 4 + [0.8998] * 3


def test_without_a_decay_of_its_own_the_averages_keep_theirs(tmp_path: Path) -> None:
    """As in the official code, which sets one that its averaging does not look at."""
    scores = {2: 10.0, 4: 30.0, 6: 35.0, 8: 29.0, 10: 1.0}
    watch = train(tmp_path, scores, iterations=10, start_iter=4, decay=None)
    assert watch.weights == [1, 2, 3, 4, 5, 6, 7, 4, 5, 6]
    assert set(watch.decays) == {0.5}


def test_the_best_before_is_kept_apart(tmp_path: Path) -> None:
    train(tmp_path, {2: 10.0, 4: 30.0, 6: 35.0, 8: 29.0}, iterations=8, start_iter=4)
    stored = {name: -float(torch.load(tmp_path / f"{name}.pth", weights_only=True)["model"]["weight"]) for name in
              ("model_best", "model_best_stage1")}  # fmt: skip
    assert stored == {"model_best": 6, "model_best_stage1": 4}


def test_averages_and_momentum_come_back_too(tmp_path: Path) -> None:
    watch = train(tmp_path, {2: 10.0, 4: 5.0}, iterations=4, start_iter=3)
    assert watch.weights == [1, 2, 3, 3]
    # the average after two steps, and a third one with a decay of 0.9
    after_two = 0.5 * (0.5 * 0 + 0.5 * 1) + 0.5 * 2
    assert -float(watch.averaging.state.state["weight"]) == pytest.approx(0.9 * after_two + 0.1 * 3)


def test_without_an_evaluation_before_it_goes_on(tmp_path: Path) -> None:
    watch = train(tmp_path, {2: 3.0, 4: 4.0}, iterations=4, start_iter=1)
    assert watch.weights == [1, 2, 3, 4]
    assert watch.decays == [0.5, 0.9, 0.9, 0.9]


def test_the_best_checkpoint_of_an_earlier_run_in_the_folder_is_not_taken(tmp_path: Path) -> None:
    train(tmp_path, {2: 10.0, 4: 30.0}, iterations=4, start_iter=9)
    watch = train(tmp_path, {2: 3.0, 4: 4.0}, iterations=4, start_iter=1)
    assert watch.weights == [1, 2, 3, 4]
