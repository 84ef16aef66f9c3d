"""A loss in a user's own file, listed in a recipe, needs no change in this package."""

import re
import sys
from pathlib import Path

import pytest
import torch

from deim.config import build, load_config
from deim.config.portable import from_portable, to_portable
from deim.engine.hooks.writers import main_loss_names
from tests.commands import RECIPE, data_overrides, metrics, tool
from tests.conftest import ROOT
from tests.models import batch, without_pretrained


@pytest.fixture
def own_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the loss and the recipe of the page as the files of a user."""
    section = (ROOT / "docs/extending.md").read_text(encoding="utf-8").split("\n## A loss\n")[1].split("\n## ")[0]
    loss, listing = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "my_losses.py").write_text(loss)
    base = f"""
from detectron2.config import LazyConfig
_base = LazyConfig.load({str(ROOT / RECIPE)!r})
train, model, optimizer, schedule, lr_multiplier, dataloader = (
    _base[key] for key in ("train", "model", "optimizer", "schedule", "lr_multiplier", "dataloader")
)
"""
    (tmp_path / "my_recipe.py").write_text(base + listing)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.delitem(sys.modules, "my_losses", raising=False)
    return tmp_path / "my_recipe.py"


def test_loss_in_an_own_file(own_recipe: Path) -> None:
    overrides = ["model.criterion.losses.loss_size.weight=3", "model.decoder.queries.num_queries=20"]
    cfg = without_pretrained(load_config(str(own_recipe), overrides))
    torch.manual_seed(0)
    model = build(cfg, "model")
    losses = model(batch([2, 1]))
    sum(losses.values()).backward()
    suffixes = [name.removeprefix("loss_bbox") for name in losses if name.startswith("loss_bbox")]
    assert [name.removeprefix("loss_size") for name in losses if name.startswith("loss_size")] == suffixes
    assert not any(name.startswith("loss_giou") for name in losses)
    assert list(main_loss_names(model) or ()) == ["loss_mal", "loss_bbox", "loss_fgl", "loss_ddf", "loss_size"]
    torch.manual_seed(0)
    again = build(cfg, "model")
    again.criterion.losses["loss_size"].weight = 1.5
    for name, value in again(batch([2, 1])).items():
        expected = losses[name] * (0.5 if name.startswith("loss_size") else 1)
        torch.testing.assert_close(value, expected, msg=name)


def test_checkpoints_predict_without_the_file_of_the_loss(own_recipe: Path) -> None:
    portable = to_portable(without_pretrained(load_config(str(own_recipe))))
    assert portable is not None
    assert portable["model"]["criterion"] is None
    model = build(from_portable(portable, "model.pth"), "model").eval()
    with torch.no_grad():
        assert len(model(batch([1]))[0]["instances"])


def test_run_with_an_own_loss(own_recipe: Path, shapes: Path, tmp_path: Path) -> None:
    settings = ["dataloader.image_size=[64,64]", "dataloader.train.num_workers=0", "train.log_period=1"]
    settings += ["train.max_iter=2", "train.eval_period=0", "model.decoder.queries.num_queries=20"]
    settings += [*data_overrides(shapes), f"train.output_dir={tmp_path / 'run'}"]
    result = tool("train_net.py", "--config-file", str(own_recipe), *settings)
    assert result.returncode == 0, result.stderr
    assert set(metrics(tmp_path / "run", "loss_size")) == {0, 1}
