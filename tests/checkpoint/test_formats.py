"""Conversion to external layouts and back keeps all weights."""

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
from deim.inference import deployment_form
from tests.checkpoint.foreign import DETRS, REAL_TIME, digest
from tests.conftest import long_except
from tests.models import randomize


def detector(recipe: str, *overrides: str) -> nn.Module:
    torch.manual_seed(0)
    return randomize(build(load_config(recipe, overrides), "model"), 0.02)


def to_external_layout(
    model: nn.Module, recipe: str, to: str, *overrides: str
) -> tuple[dict[str, Tensor], IdentifiedCheckpoint]:
    config = load_config(recipe, overrides)
    weights = model.state_dict()
    identified = IdentifiedCheckpoint(StoredWeights("random", weights), None, recipe, config, model, weights, None, [])
    return to_layout(identified, to), identified


def assert_round_trip(external_weights: dict[str, Tensor], to: str, recipe: str, weights: dict[str, Tensor]) -> None:
    """Assert that reading an external layout restores the weights, and that writing them again gives the same file."""
    identified = identify(StoredWeights(f"{Path(recipe).name}.pth", external_weights), to)
    assert {name: value for name, value in identified.weights.items() if not torch.equal(value, weights[name])} == {}
    assert identified.weights.keys() == weights.keys()
    assert identified.recipe == recipe
    restored = to_layout(identified, to)
    assert restored.keys() == external_weights.keys()
    assert all(torch.equal(restored[name], value) for name, value in external_weights.items())


BY_RECIPE = {case[1]: case for case in REAL_TIME}
SMALLEST = [
    "deim_dfine/deim_dfine_n_coco",
    "deim_dfine/deim_dfine_s_coco",
    "deim_rtdetrv2/deim_rtdetrv2_r18vd_120e_coco",
]


@pytest.mark.parametrize("recipe", long_except(SMALLEST, BY_RECIPE))
def test_official_real_time_detector_layouts(recipe: str) -> None:
    """Every size, in training and deployment form."""
    to, _, training, deployment = BY_RECIPE[recipe]
    model = detector(recipe)
    external_weights, _ = to_external_layout(model, recipe, to)
    assert digest(external_weights) == training
    assert_round_trip(external_weights, to, recipe, model.state_dict())
    if deployment is not None:
        deployed = deployment_form(model)
        external_weights, _ = to_external_layout(deployed, recipe, to)
        assert digest(external_weights) == deployment
        assert_round_trip(external_weights, to, recipe, deployed.state_dict())


@pytest.mark.parametrize(("to", "recipe", "classes", "expected"), DETRS, ids=[f"{case[0]}-{case[1]}" for case in DETRS])
def test_official_and_detrex_detr_layouts(to: str, recipe: str, classes: int, expected: tuple) -> None:
    overrides = [f"model.num_classes={classes}"]
    model = detector(recipe, *overrides)
    external_weights, _ = to_external_layout(model, recipe, to, *overrides)
    assert digest(external_weights) == expected
    assert_round_trip(external_weights, to, recipe, model.state_dict())


@torch.no_grad()
def test_rtdetr_deployment_checkpoint_is_partly_fused(tmp_path: Path) -> None:
    """The official code re-parameterizes two convolutions of a block and keeps the originals; this package re-parameterizes
    all."""
    recipe, queries = "rtdetrv2/rtdetrv2_r18vd_120e_coco", "model.decoder.queries.num_queries=20"
    model = detector(recipe, queries).eval()
    external_weights, _ = to_external_layout(model, recipe, "rtdetrv2")
    for name in [n for n in external_weights if n.endswith(".conv1.conv.weight") and ".bottlenecks." in n]:
        block = model.get_submodule(name.removesuffix(".conv1.conv.weight"))
        block.reparameterize()
        prefix = name.removesuffix("conv1.conv.weight")
        external_weights |= {f"{prefix}conv.{kind}": value for kind, value in block.fused.named_parameters()}
    torch.save({"model": external_weights}, tmp_path / "rtdetrv2_r18vd.pth")

    identified = convert(str(tmp_path / "rtdetrv2_r18vd.pth"), str(tmp_path / "ours.pth"))
    assert (identified.form, identified.recipe) == ("deployment", recipe)
    loaded = build(load_config(recipe, [queries]), "model").eval()
    load_for_inference(loaded, str(tmp_path / "ours.pth"))
    assert not any("norm" in name for name, _ in loaded.encoder.fpn_blocks.named_parameters()), "all is folded"
    # In float32, rounding could change which tokens become queries.
    image = torch.rand(1, 3, 96, 128, dtype=torch.float64)
    model, loaded = model.double(), loaded.double()
    expected, actual = (m.decoder(m.encoder(m.backbone(image)))[0]["main"] for m in (model, loaded))
    torch.testing.assert_close(actual.logits, expected.logits[-1:], rtol=1e-4, atol=1e-4)
    convert(str(tmp_path / "ours.pth"), str(tmp_path / "back.pth"), to="rtdetrv2")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert back.keys() == external_weights.keys()
    assert all(torch.equal(back[name], value) for name, value in external_weights.items())


def test_different_copies_of_a_shared_head_are_rejected(tmp_path: Path) -> None:
    """Deformable DETR with and without box refinement has the same names."""
    recipe = "deformable_detr/deformable_detr_r50_refine_50ep_coco"
    torch.save({"model": detector(recipe).state_dict()}, tmp_path / "refine.pth")
    model = build(load_config("deformable_detr/deformable_detr_r50_50ep_coco"), "model")
    with pytest.raises(
        CheckpointError, match=r"score_heads.1.weight and .*score_heads.0.weight are one tensor in this"
    ):
        load_for_inference(model, str(tmp_path / "refine.pth"))


@pytest.mark.parametrize("refine", [False, True])
def test_deformable_detr_with_one_layer_has_decoder_heads_only_with_box_refinement(refine: bool) -> None:
    recipe = f"deformable_detr/deformable_detr_r50_{'refine_' if refine else ''}50ep_coco"
    overrides = ("model.decoder.num_layers=1",)
    with torch.device("meta"):
        model = build(load_config(recipe, overrides), "model")
    external_weights, _ = to_external_layout(model, recipe, "deformable_detr", *overrides)
    assert any(name.startswith("transformer.decoder.bbox_embed.0.") for name in external_weights) == refine
