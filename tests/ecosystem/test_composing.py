"""Combination of config switches in any order, and errors for invalid combinations."""

from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall, instantiate
from detectron2.engine import SimpleTrainer

from deim.config import build, with_deim_dfine
from deim.engine.hooks import PeriodicCheckpointer
from deim.modeling.backbone import build_swin
from tests.models import FAMILIES, batch, recipe

SMALL_MODEL = ("model.decoder.queries.num_queries=20", "model.decoder.num_layers=2")


def test_order_of_backbone_and_switches_does_not_matter() -> None:
    swin = LazyCall(build_swin)(size="tiny", out_indices=[1, 2], drop_path_rate=0.0)
    backbone_first, backbone_last = (recipe(FAMILIES["dfine"], *SMALL_MODEL).model for _ in range(2))
    backbone_first.backbone = swin
    with_deim_dfine(backbone_first)
    with_deim_dfine(backbone_last)
    backbone_last.backbone = swin
    assert backbone_first == backbone_last
    assert torch.isfinite(sum(instantiate(backbone_first)(batch([2, 1])).values()))


def test_switch_unfreezes_backbone() -> None:
    model = with_deim_dfine(recipe("dfine_l_coco").model)
    assert (model.backbone.freeze_at, model.backbone.freeze_norm) == (0, False)


def test_wrong_number_of_levels_is_an_error() -> None:
    cfg = recipe(FAMILIES["dfine"], *SMALL_MODEL)
    cfg.model.backbone.out_features = ["stage1", "stage2", "stage3"]
    with pytest.raises(
        ValueError,
        match=r"returns 3 maps, but decoder\.input_proj\.in_channels has 2 entries: set it to \[96, 96, 96\]",
    ):
        build(cfg, "model")(batch([1]))


def test_periodic_checkpointer_accepts_detectron2_checkpointer(tmp_path: Path) -> None:
    model = type("Model", (torch.nn.Linear,), {"forward": lambda self, x: {"loss": self.weight.sum()}})(1, 1)
    trainer = SimpleTrainer(model, [[{}]] * 6, torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.register_hooks([PeriodicCheckpointer(DetectionCheckpointer(model, str(tmp_path)), 2, max_to_keep=1)])
    trainer.train(0, 6)
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["model_0000005.pth", "model_final.pth"]
