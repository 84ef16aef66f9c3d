"""The epoch of the criterion follows the iteration of the trainer."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.engine import SimpleTrainer
from torch import nn

from deim.engine.hooks.criterion_epoch import CriterionEpochHook
from deim.errors import ConfigError
from deim.modeling import Criterion, DetrexCriterion, HungarianMatcher, ScoreIoUCost
from tests.commands import metrics, train_net


class Model(nn.Module):
    """Model that records the epoch of its criterion in each step."""

    def __init__(self, criterion: nn.Module):
        super().__init__()
        self.criterion, self.weight = criterion, nn.Parameter(torch.ones(()))
        self.epochs: list[int] = []

    def forward(self, samples: list[dict]) -> dict[str, torch.Tensor]:
        self.epochs.append(getattr(self.criterion, "criterion", self.criterion).epoch)
        return {"loss": self.weight * len(samples)}


class Wrapper(nn.Module):
    """Wrapper with the interface of DistributedDataParallel."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, samples: list[dict]) -> dict[str, torch.Tensor]:
        return self.module(samples)


def criterion(**options: object) -> Criterion:
    return Criterion(3, [], HungarianMatcher(**options))  # type: ignore[arg-type]


def train(model: nn.Module, start_iter: int, max_iter: int, iters_per_epoch: int | None) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = SimpleTrainer(model, [[{}]] * (max_iter - start_iter), optimizer)  # type: ignore[arg-type]
    trainer.register_hooks([CriterionEpochHook(iters_per_epoch)])
    trainer.train(start_iter, max_iter)


@pytest.mark.parametrize("make_criterion", [criterion, lambda: DetrexCriterion(3)], ids=["ours", "detrex"])
@pytest.mark.parametrize("wrap", [lambda model: model, Wrapper, lambda m: torch.compile(m, backend="eager")])
def test_epoch_follows_the_iteration(make_criterion, wrap) -> None:
    model = Model(make_criterion())
    train(wrap(model), 0, 7, iters_per_epoch=3)
    assert model.epochs == [0, 0, 0, 1, 1, 1, 2]
    resumed = Model(make_criterion())
    train(wrap(resumed), 4, 7, iters_per_epoch=3)
    assert resumed.epochs == model.epochs[4:]


def test_loaders_without_epochs() -> None:
    model = Model(criterion())
    train(model, 0, 3, iters_per_epoch=None)
    assert model.epochs == [0, 0, 0]
    hook = CriterionEpochHook(None)
    hook.trainer = SimpleNamespace(model=Model(criterion(late_cost=ScoreIoUCost(), late_epoch=2)))  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="late_epoch needs the number of iterations per epoch"):
        hook.before_train()


def test_late_cost_in_a_resumed_run(shapes: Path, tmp_path: Path) -> None:
    """A run that continues in an epoch with the late cost equals the uninterrupted run; the cost changes the losses."""
    settings = [
        "train.max_iter=7",
        "train.checkpointer.period=1",
        "train.checkpointer.max_to_keep=9",
        "train.eval_period=0",
        "optimizer.lr=0.001",
    ]
    settings += ["dataloader.train.total_batch_size=8", "schedule.warmup_iters=0"]
    late = [f"+model.criterion.matcher.late_cost._target_={ScoreIoUCost.__module__}.ScoreIoUCost"]
    late.append("+model.criterion.matcher.late_epoch=1")
    for name, options in {"early": [], "late": late}.items():
        result = train_net(shapes, tmp_path / name, *settings, *options)
        assert result.returncode == 0, result.stderr
    iters_per_epoch = int(re.search(r"Schedule: (\d+) iterations per epoch", result.stderr + result.stdout)[1])  # type: ignore[index]
    assert iters_per_epoch < 5, "the run is resumed within the second epoch"
    early, expected = metrics(tmp_path / "early"), metrics(tmp_path / "late")
    assert min(iteration for iteration in early if early[iteration] != expected[iteration]) == iters_per_epoch
    (tmp_path / "resumed").mkdir()
    shutil.copy(tmp_path / "late" / f"model_{iters_per_epoch:07d}.pth", tmp_path / "resumed")
    (tmp_path / "resumed" / "last_checkpoint").write_text(f"model_{iters_per_epoch:07d}.pth")
    result = train_net(shapes, tmp_path / "resumed", "--resume", *settings, *late)
    assert result.returncode == 0, result.stderr
    actual = metrics(tmp_path / "resumed")
    assert list(actual) == list(range(iters_per_epoch, 7)), "the checkpoint restores the metrics of its iteration"
    assert actual == {iteration: expected[iteration] for iteration in actual}
