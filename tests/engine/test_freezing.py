"""Frozen modules, and learning rates that decay with the depth of a vision transformer."""

import logging
from pathlib import Path

import pytest
import torch
from detrex.modeling.ema import EMAState
from torch import nn

from deim.checkpoint.loading import resume
from deim.checkpoint.run_checkpointer import RunCheckpointer
from deim.config import load_config
from deim.engine import EMAHook, Trainer, param_groups
from deim.engine.freezing import freeze_modules
from deim.engine.initial_state import warn_about_frozen_random_weights
from deim.errors import CheckpointError, ConfigError
from tests.conftest import ROOT
from tests.models import batch, tiny_model

ATTO = {"family": "deimv2_lite"}


def test_frozen_modules_keep_weights_and_statistics(caplog) -> None:
    caplog.set_level(logging.INFO)
    model = tiny_model(**ATTO)
    names = set(model.state_dict())
    frozen = {n for n, p in model.named_parameters() if n.startswith(("backbone.", "encoder.")) and p.requires_grad}
    size = sum(parameter.numel() for name, parameter in model.named_parameters() if name in frozen)
    assert freeze_modules(model, ["backbone", "encoder"]) == size
    assert f"Froze backbone, encoder: {size:,} parameters" in caplog.text
    assert set(model.state_dict()) == names, "checkpoints of frozen and other models are interchangeable"

    groups = param_groups(model, {"backbone": {"pattern": "^backbone", "lr": 1.0}})
    assert len(groups) == 1, "optimizers do not get frozen parameters"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ema_hook = EMAHook(model, EMAState(), decay=0.5, warmup_iters=0)
    trainer = Trainer(model, [batch([2, 3])] * 2, torch.optim.AdamW(groups, lr=1e-2))
    trainer.register_hooks([ema_hook])
    trainer.train(0, 2)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("decoder.") for name in changed)
    for name, value in ema_hook.state.state.items():
        if name.startswith(("backbone.", "encoder.")):
            assert torch.equal(value, before[name]), name


def test_frozen_parts_of_a_module() -> None:
    model = tiny_model(**ATTO)
    freeze_modules(model, ["decoder.layers.0"])
    trainable = {name for name, parameter in model.decoder.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith("layers.0.") for name in trainable)
    assert any(name.startswith("layers.1.") for name in trainable)


def test_frozen_normalization_by_its_own_name() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    freeze_modules(model, ["1"])
    assert type(model[1]).__name__ == "FrozenBatchNorm2d"
    assert model[0].weight.requires_grad


def test_nothing_changes_without_names(caplog) -> None:
    caplog.set_level(logging.INFO)
    model = nn.Linear(1, 1)
    assert freeze_modules(model, []) == 0
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["neck"], "no module 'neck'; it has backbone, encoder, decoder"),
        (["backbone.stage9"], r"no module 'backbone\.stage9'; backbone has stem, stages"),
        (["backbone", "encoder", "decoder"], "freezes all parameters"),
    ],
)
def test_invalid_names_are_errors(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        freeze_modules(tiny_model(**ATTO), names)


def test_resume_with_other_frozen_modules_is_an_error(tmp_path: Path) -> None:
    def checkpointer(names: list[str]) -> RunCheckpointer:
        model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        freeze_modules(model, names)
        trainer = Trainer(model, [], torch.optim.AdamW(param_groups(model)))
        return RunCheckpointer(model, str(tmp_path), trainer=trainer)

    checkpointer(["0"]).save_iteration(3)
    path = str(tmp_path / "model_0000003.pth")
    same, other = checkpointer(["0"]), checkpointer([])
    resume(same, same.model, path)
    with pytest.raises(CheckpointError, match=r"groups of \[2\] parameters, but that of this run has groups of \[4\]"):
        resume(other, other.model, path)


@pytest.mark.parametrize(
    ("overrides", "random"),
    [
        (["train.freeze=[backbone,encoder]"], "backbone, encoder"),
        (["train.freeze=[backbone,encoder]", "model.backbone.weights=imagenet"], "encoder"),
        (["train.freeze=[backbone,encoder]", "train.init_checkpoint=coco"], ""),
        ([], ""),
    ],
)
def test_frozen_random_weights_are_reported(overrides: list[str], random: str, caplog) -> None:
    cfg = load_config(str(ROOT / "projects/deimv2/configs/deimv2_hgnetv2_atto_shapes.py"), overrides)
    warn_about_frozen_random_weights(cfg)
    assert (f"keeps the random weights of {random}:" in caplog.text) if random else not caplog.text


RULES = {
    "no_decay": {"pattern": r"^backbone\.vit\..*(norm|bias)", "lr": 1.0, "weight_decay": 0.0},
    "backbone": {"pattern": r"^backbone\.", "lr": 2.0},
}


def learning_rates(model: nn.Module, decay: float | None, rules: dict | None = None) -> dict[str, float]:
    """Return {name: learning rate} of all trainable parameters; 5 is the default."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = param_groups(model, RULES if rules is None else rules, decay)
    return {names[parameter]: group.get("lr", 5.0) for group in groups for parameter in group["params"]}


def test_learning_rates_decay_from_the_last_block_to_the_first() -> None:
    model = tiny_model(family="ecdet")
    count = len(model.backbone.vit.blocks)
    rates = learning_rates(model, 0.5)
    assert rates.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for index in range(count):
        factor = 0.5 ** (count - index)
        assert rates[f"backbone.vit.blocks.{index}.attn.proj.weight"] == 2 * factor
        assert rates[f"backbone.vit.blocks.{index}.attn.proj.bias"] == factor
    assert rates["backbone.vit.cls_token"] == 2 * 0.5 ** (count + 1)
    assert {rate for name, rate in rates.items() if name.startswith("backbone.projections.")} == {2.0}
    assert {rate for name, rate in rates.items() if not name.startswith("backbone.")} == {5.0}
    assert learning_rates(model, 1.0) == learning_rates(model, None)
    assert len(param_groups(model, RULES)) == 3


class Transformer(nn.Module):
    """Backbone with the names of a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed, self.blocks = nn.Linear(1, 1), nn.ModuleList([nn.Linear(1, 1)])


@pytest.mark.parametrize(
    ("backbone", "decay", "rules", "message"),
    [
        (nn.Linear(1, 1), 0.5, RULES, "not a vision transformer"),
        (Transformer(), 0.0, RULES, r"must be in \(0, 1\]"),
        (Transformer(), 1.5, RULES, r"must be in \(0, 1\]"),
        (Transformer(), 0.5, {}, "no rule matches"),
        (Transformer(), 0.5, {"all": {"pattern": "."}}, r"rules\.all has no lr"),
    ],
)
def test_layer_decay_errors(backbone: nn.Module, decay: float, rules: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        learning_rates(nn.ModuleDict({"backbone": backbone}), decay, rules)
