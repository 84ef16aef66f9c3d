"""Groups of predictions: names, relations and configs."""

from pathlib import Path

import pytest
from detectron2.config import LazyCall, LazyConfig
from omegaconf import OmegaConf

from deim.config import build
from deim.config.portable import from_portable, to_portable
from deim.modeling.losses import Supervision
from deim.structures import PredictionGroup
from tests.models import recipe

QUERY_KINDS = ("denoising", "hybrid")


def test_groups_are_strings() -> None:
    groups = {PredictionGroup.MAIN: 1}
    assert groups["main"] == 1
    assert f"{PredictionGroup.MAIN} {PredictionGroup.HYBRID_INITIAL}" == "main hybrid_initial"
    assert PredictionGroup("denoising") is PredictionGroup.DENOISING


def test_relations_follow_the_names() -> None:
    refined = {"main": "initial", "denoising": "denoising_initial", "hybrid": "hybrid_initial"}
    for group in PredictionGroup:
        assert group.initial == refined.get(group.value)
        for kind in QUERY_KINDS:
            expected = {"main": kind, "initial": f"{kind}_initial"}.get(group.value)
            assert getattr(group, kind) == expected


@pytest.mark.parametrize("name", ["noised", "", None])
def test_unknown_groups_are_rejected(name: str | None) -> None:
    with pytest.raises(ValueError, match=rf"unknown group of predictions {name!r}; choose one of main, initial, enc"):
        Supervision(name, "_{}")  # type: ignore[arg-type]


def test_configs_may_contain_members(tmp_path: Path) -> None:
    cfg = recipe("deim_dfine_n_shapes")
    cfg.model.criterion.supervision = [LazyCall(Supervision)(group=PredictionGroup.MAIN, suffix="_{}")]
    assert build(cfg, "model").criterion.supervision[0].group is PredictionGroup.MAIN
    path = str(tmp_path / "config.yaml")
    LazyConfig.save(cfg, path)
    saved = OmegaConf.load(path).model.criterion.supervision[0]
    assert Supervision(saved.group, saved.suffix).group is PredictionGroup.MAIN
    portable = to_portable(cfg)
    assert portable is not None
    restored = build(from_portable(portable, "model.pth"), "model").criterion.supervision[0]
    assert restored.group is PredictionGroup.MAIN
