"""Options of the optimizer that the config changes between a run and its continuation."""

from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase, hooks
from fvcore.common.param_scheduler import LinearParamScheduler

from deim.engine import Trainer
from tests.engine.test_final_stage import CountingModel

ITERATIONS = 8


class CountingSGD(torch.optim.SGD):
    """SGD that, like some published optimizers, counts its steps in the parameter groups."""

    def step(self, closure=None):
        self.param_groups[0]["count"] = self.param_groups[0].get("count", 0) + 1
        return super().step(closure)


class Recorder(HookBase):
    """Hook that records the options of each iteration."""

    def __init__(self) -> None:
        self.options: list[dict] = []

    def before_step(self) -> None:
        group = self.trainer.optimizer.param_groups[0]
        self.options.append({name: value for name, value in group.items() if name != "params"})


def run(
    folder: Path, lr: float, weight_decay: float = 0.0, resumed: bool = False, is_legacy: bool = False
) -> list[dict]:
    """Train half of the iterations, or resume for the other half; return the options of each iteration."""
    model = CountingModel()
    optimizer = CountingSGD(model.parameters(), lr=lr, weight_decay=weight_decay)
    trainer = Trainer(model, [[{}]] * ITERATIONS, optimizer)
    recorder = Recorder()
    trainer.register_hooks([hooks.LRScheduler(scheduler=LinearParamScheduler(1.0, 0.0)), recorder])
    checkpointer = DetectionCheckpointer(model, str(folder), trainer=trainer)
    trainer.max_iter = ITERATIONS
    if resumed:
        content = torch.load(folder / "half.pth", weights_only=True)
        if is_legacy:
            del content["trainer"]["optimizer_options"]
        model.load_state_dict(content["model"])
        trainer.load_state_dict(content["trainer"])
        trainer.train(ITERATIONS // 2, ITERATIONS)
    else:
        trainer.register_hooks([hooks.PeriodicCheckpointer(checkpointer, ITERATIONS // 2)])
        trainer.train(0, ITERATIONS)
        (folder / f"model_{ITERATIONS // 2 - 1:07d}.pth").rename(folder / "half.pth")
    return recorder.options


@pytest.mark.parametrize("is_legacy", [False, True])
def test_changed_options_apply_to_the_resumed_run(tmp_path: Path, is_legacy: bool) -> None:
    whole = run(tmp_path, lr=1.0)
    second_half = whole[ITERATIONS // 2 :]
    assert run(tmp_path, lr=1.0, resumed=True, is_legacy=is_legacy) == second_half

    changed = run(tmp_path, lr=0.5, weight_decay=0.25, resumed=True, is_legacy=is_legacy)
    assert [options["lr"] for options in changed] == [0.5 * options["lr"] for options in second_half]
    assert {options["weight_decay"] for options in changed} == {0.25}
    assert [options["count"] for options in changed] == [options["count"] for options in second_half]


def test_restarts_from_a_checkpoint_keep_the_changed_options(tmp_path: Path) -> None:
    run(tmp_path, lr=1.0)
    content = torch.load(tmp_path / "half.pth", weights_only=True)
    model = CountingModel()
    optimizer = CountingSGD(model.parameters(), lr=0.5, weight_decay=0.25)
    trainer = Trainer(model, [], optimizer)
    optimizer.param_groups[0]["lr"] = 0.125
    trainer.load_optimizer(content["trainer"])
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["count"]) == (0.125, 0.25, ITERATIONS // 2)
