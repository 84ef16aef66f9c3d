"""Weights go to the layout of the code that they are from, name for name, and come back as they were."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deim.checkpoint.loading import load_for_inference
from deim.checkpoint.reading import StoredWeights
from deim.config import build, load_config
from deim.conversion import convert, identify
from deim.conversion.conversion import to_layout
from deim.conversion.identification import IdentifiedCheckpoint
from deim.errors import CheckpointError
from deim.inference import reparameterized
from tests.checkpoint.foreign import DETRS, REAL_TIME, digest
from tests.conftest import long_except
from tests.models import randomize


def detector(recipe: str, *overrides: str) -> nn.Module:
    torch.manual_seed(0)
    return randomize(build(load_config(recipe, overrides), "model"), 0.02)


def in_their_layout(
    model: nn.Module, recipe: str, to: str, *overrides: str
) -> tuple[dict[str, Tensor], IdentifiedCheckpoint]:
    config = load_config(recipe, overrides)
    weights = model.state_dict()
    found = IdentifiedCheckpoint(StoredWeights("random", weights), None, recipe, config, model, weights, None, [])
    return to_layout(found, to), found


def assert_comes_back(theirs: dict[str, Tensor], to: str, recipe: str, weights: dict[str, Tensor]) -> None:
    """What we read from their layout is what was written, and written again it is theirs, bit for bit."""
    found = identify(StoredWeights(f"{Path(recipe).name}.pth", theirs), to)
    assert {name: value for name, value in found.weights.items() if not torch.equal(value, weights[name])} == {}
    assert found.weights.keys() == weights.keys()
    assert found.recipe == recipe
    again = to_layout(found, to)
    assert again.keys() == theirs.keys()
    assert all(torch.equal(again[name], value) for name, value in theirs.items())


BY_RECIPE = {case[1]: case for case in REAL_TIME}
SMALLEST = [
    "deim_dfine/deim_dfine_n_coco",
    "deim_dfine/deim_dfine_s_coco",
    "deim_rtdetrv2/deim_rtdetrv2_r18vd_120e_coco",
]


@pytest.mark.parametrize("recipe", long_except(SMALLEST, BY_RECIPE))
def test_official_real_time_detectors(recipe: str) -> None:
    """Of every size, in both forms."""
    to, _, training, deployment = BY_RECIPE[recipe]
    model = detector(recipe)
    theirs, _ = in_their_layout(model, recipe, to)
    assert digest(theirs) == training
    assert_comes_back(theirs, to, recipe, model.state_dict())
    if deployment is not None:
        deployed = reparameterized(model)
        theirs, _ = in_their_layout(deployed, recipe, to)
        assert digest(theirs) == deployment
        assert_comes_back(theirs, to, recipe, deployed.state_dict())


@pytest.mark.parametrize(("to", "recipe", "classes", "expected"), DETRS, ids=[f"{case[0]}-{case[1]}" for case in DETRS])
def test_official_detrs_and_those_of_detrex(to: str, recipe: str, classes: int, expected: tuple) -> None:
    overrides = [f"model.num_classes={classes}"]
    model = detector(recipe, *overrides)
    theirs, _ = in_their_layout(model, recipe, to, *overrides)
    assert digest(theirs) == expected
    assert_comes_back(theirs, to, recipe, model.state_dict())


@torch.no_grad()
def test_rtdetrs_deployment_folds_less_than_ours(tmp_path: Path) -> None:
    """Its code folds two of the convolutions of a block and keeps what they were made from; ours folds all."""
    recipe, queries = "rtdetrv2/rtdetrv2_r18vd_120e_coco", "model.decoder.queries.num_queries=20"
    model = detector(recipe, queries).eval()
    theirs, _ = in_their_layout(model, recipe, "rtdetrv2")
    for name in [n for n in theirs if n.endswith(".conv1.conv.weight") and ".bottlenecks." in n]:
        block = model.get_submodule(name.removesuffix(".conv1.conv.weight"))
        block.reparameterize()
        prefix = name.removesuffix("conv1.conv.weight")
        theirs |= {f"{prefix}conv.{kind}": value for kind, value in block.fused.named_parameters()}
    torch.save({"model": theirs}, tmp_path / "rtdetrv2_r18vd.pth")

    found = convert(str(tmp_path / "rtdetrv2_r18vd.pth"), str(tmp_path / "ours.pth"))
    assert (found.form, found.recipe) == ("deployment", recipe)
    loaded = build(load_config(recipe, [queries]), "model").eval()
    load_for_inference(loaded, str(tmp_path / "ours.pth"))
    assert not any("norm" in name for name, _ in loaded.encoder.fpn_blocks.named_parameters()), "all is folded"
    image = torch.rand(1, 3, 96, 128)
    expected, found_groups = (m.decoder(m.encoder(m.backbone(image)))[0]["main"] for m in (model, loaded))
    torch.testing.assert_close(found_groups.logits, expected.logits[-1:], rtol=1e-4, atol=1e-4)
    convert(str(tmp_path / "ours.pth"), str(tmp_path / "back.pth"), to="rtdetrv2")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], value) for name, value in theirs.items())


def test_heads_that_differ_are_not_those_of_a_model_that_shares_one(tmp_path: Path) -> None:
    """Deformable DETR with and without box refinement has the same names."""
    recipe = "deformable_detr/deformable_detr_r50_refine_50ep_coco"
    torch.save({"model": detector(recipe).state_dict()}, tmp_path / "refine.pth")
    model = build(load_config("deformable_detr/deformable_detr_r50_50ep_coco"), "model")
    with pytest.raises(
        CheckpointError, match=r"score_heads.1.weight and .*score_heads.0.weight are one tensor in this"
    ):
        load_for_inference(model, str(tmp_path / "refine.pth"))
