"""Checkpoints of EdgeCrafter's official code: detectors in both forms, folders of Hugging Face, and backbones."""

import copy
import logging
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from safetensors.torch import load_file
from torch import Tensor, nn

from deim.checkpoint.formats import dinov3, recognize
from deim.checkpoint.formats.dfine import FDR_REPEATS
from deim.checkpoint.formats.edgecrafter import ECVIT, EDGECRAFTER
from deim.checkpoint.loading import load_for_inference, load_weights
from deim.checkpoint.renaming import from_native
from deim.conversion import convert, convert_backbone
from deim.conversion.ecdet_folder import build_ecdet_config
from deim.errors import CheckpointError
from deim.inference import deployment_form
from deim.modeling import ECViT, build_vit
from tests.checkpoint.foreign import digest
from tests.conftest import long_except
from tests.ecdet import MODELS, build_model, model_config
from tests.models import batch, randomize, recipe

# Tensors of a detector in the official code: (their number, digest) in training and in deployment form.
OFFICIAL = {
    "s": ((667, "546776277d90275b"), (385, "d7bddccb48125e65")),
    "m": ((667, "035e7728f4bf2691"), (385, "a49e80d152b57478")),
    "l": ((775, "21bf7fc1769b9798"), (405, "56336e3972beb8ad")),
    "x": ((775, "dfc258be88fab4a8"), (405, "ac9f7a078f1e4b24")),
}


def official_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the content of an official file with the weights of a model."""
    return EDGECRAFTER.from_native(model.state_dict(), model)


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    """An ECDet-S with random values, few classes and few queries. Tests do not change it."""
    torch.manual_seed(0)
    config = model_config("s")
    config.num_classes, config.decoder.queries.num_queries = 6, 20
    return randomize(instantiate(config)).eval()


def zeroed(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose parameters and buffers are zero."""
    result = copy.deepcopy(model)
    for tensor in result.state_dict().values():
        tensor.zero_()
    return result


def assert_equal_weights(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(actual[name], value)] == []


def assert_equal_detections(actual: nn.Module, expected: nn.Module) -> None:
    samples = batch([1, 1], size=96)
    with torch.no_grad():
        for ours, theirs in zip(actual(samples), expected(samples), strict=True):
            assert torch.equal(ours["instances"].scores, theirs["instances"].scores)
            assert torch.equal(ours["instances"].pred_boxes.tensor, theirs["instances"].pred_boxes.tensor)
            assert torch.equal(ours["instances"].pred_classes, theirs["instances"].pred_classes)


@pytest.mark.parametrize("name", long_except(["s", "l"], MODELS))
def test_names_and_shapes_are_the_official_ones(name: str) -> None:
    copies = {repeat.copy for repeat in FDR_REPEATS}
    for form, expected in zip(("training", "deployment"), OFFICIAL[name], strict=True):
        model = build_model(name)
        if form == "deployment":
            model = deployment_form(model)
        theirs = official_weights(model)
        assert digest(theirs) == expected
        assert recognize(theirs) is EDGECRAFTER
        # Copies cannot be compared on the meta device.
        back, unknown = EDGECRAFTER.to_native({name: value for name, value in theirs.items() if name not in copies})
        assert unknown == []
        assert back.keys() == model.state_dict().keys()


@pytest.mark.long
def test_release_files_are_converted_both_ways(detector: nn.Module, tmp_path: Path) -> None:
    """Release files contain the state of the training; the EMA weights are used."""
    theirs, others = official_weights(detector), official_weights(zeroed(detector))
    assert torch.equal(theirs["decoder.decoder.layers.1.norm2.weight"], detector.decoder.layers[1].norm3.weight)
    state = {"date": "2026", "last_epoch": 73, "model": others, "ema": {"module": theirs, "updates": 9}}
    torch.save(state, tmp_path / "ecdet_s.pth")
    identified = convert(str(tmp_path / "ecdet_s.pth"), str(tmp_path / "native.pth"))
    assert (identified.recipe, identified.form, identified.model.num_classes) == ("ecdet/ecdet_s_coco", "training", 6)
    assert_equal_weights(identified.weights, detector.state_dict())
    convert(str(tmp_path / "native.pth"), str(tmp_path / "back.pth"), to="edgecrafter")
    assert_equal_weights(torch.load(tmp_path / "back.pth", weights_only=True)["model"], theirs)
    for name in ("ecdet_s.pth", "native.pth", "back.pth"):
        loaded = zeroed(detector)
        load_weights(loaded, str(tmp_path / name))
        assert_equal_detections(loaded, detector)


def test_deployed_files_are_converted_both_ways(detector: nn.Module, tmp_path: Path) -> None:
    model = deployment_form(detector)
    theirs = official_weights(model)
    assert "backbone.backbone.patch_embed.convs.0.conv_bn_fused.weight" in theirs
    assert "backbone.projector.0.conv_bn_fused.bias" in theirs
    torch.save({"model": theirs}, tmp_path / "ecdet_s_deployed.pth")
    identified = convert(str(tmp_path / "ecdet_s_deployed.pth"), str(tmp_path / "native.pth"))
    assert (identified.recipe, identified.form) == ("ecdet/ecdet_s_coco", "deployment")
    loaded = zeroed(detector)
    load_for_inference(loaded, str(tmp_path / "native.pth"))
    assert_equal_detections(loaded, model)
    convert(str(tmp_path / "native.pth"), str(tmp_path / "back.pth"), to="edgecrafter")
    assert_equal_weights(torch.load(tmp_path / "back.pth", weights_only=True)["model"], theirs)


def test_folders_of_hugging_face_hub_are_written_and_loaded(detector: nn.Module, tmp_path: Path) -> None:
    """``PyTorchModelHubMixin`` stores a tensor with several names only under the name that is first in sorted order."""
    torch.save({"model": detector.state_dict()}, tmp_path / "native.pth")
    convert(str(tmp_path / "native.pth"), str(tmp_path / "hf"), to="hf", recipe="ecdet/ecdet_s_coco")
    stored = load_file(tmp_path / "hf/model.safetensors")
    assert stored.keys() == official_weights(detector).keys() - {"decoder.up", "decoder.reg_scale"}
    loaded = zeroed(detector)
    load_weights(loaded, str(tmp_path / "hf"))
    assert_equal_weights(loaded.state_dict(), detector.state_dict())


def test_configs_of_hugging_face_folders() -> None:
    """The values are those of the authors' notebook ``hf_models.ipynb``."""
    config = build_ecdet_config(recipe("ecdet_x_coco"), (640, 640))
    expected = {
        "backbone": {"name": "ecvitsplus", "embed_dim": 384, "num_heads": 6, "proj_dim": 256, "ffn_ratio": 6},
        "encoder": {
            "in_channels": [256] * 3,
            "dim_feedforward": 2048,
            "expansion": 1.5,
            "depth_mult": 1,
            "act": "silu",
        },
        "decoder": {"feat_channels": [256] * 3, "num_points": [3, 6, 3], "num_layers": 4, "dim_feedforward": 2048},
        "postprocessor": {"num_classes": 80, "num_top_queries": 300},
    }
    assert config.keys() == expected.keys()
    for part, values in expected.items():
        assert {key: config[part][key] for key in values} == values
    backbone = build_ecdet_config(recipe("ecdet_s_coco"), (640, 640))["backbone"]
    assert (backbone["proj_dim"], backbone["ffn_ratio"], backbone["interaction_indexes"]) == (None, 4, [10, 11])


def official_vit(vit: nn.Module) -> dict[str, Tensor]:
    """Return the content of a published file of ECViT."""
    weights, unused = from_native(vit.state_dict(), ECVIT)
    assert unused == []
    return weights | dinov3.constants(vit)


def test_backbones_start_from_a_published_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    vit, file = randomize(build_vit("ecvitt", [1])), str(tmp_path / "ecvitt.pth")
    theirs = official_vit(vit)
    assert {"register_token", "rope_embed.periods", "patch_embed.convs.0.norm.running_mean"} <= theirs.keys()
    torch.save(theirs, file)
    with caplog.at_level(logging.INFO):
        backbone = ECViT("ecvitt", [0, 1], weights=file)
    assert "newly initialized: projections.0.conv.weight" in caplog.text
    assert_equal_weights(backbone.vit.state_dict(), vit.state_dict())
    assert_equal_weights(build_vit("ecvitt", [1], weights=file).state_dict(), vit.state_dict())
    with pytest.raises(CheckpointError, match="does not fit this ECViT"):
        ECViT("ecvittplus", [0, 1], weights=file)


def test_published_backbones_are_identified(tmp_path: Path) -> None:
    vit = build_vit("ecvitt")
    torch.save(official_vit(vit), tmp_path / "ecvitt.pth")
    identified = convert_backbone(str(tmp_path / "ecvitt.pth"), str(tmp_path / "native.pth"))
    assert identified is not None
    assert identified.config == 'build_vit(size="ecvitt", out_blocks=[11])'
    assert identified.unused == ["rope_embed.periods"]
    assert_equal_weights(torch.load(tmp_path / "native.pth", weights_only=True)["model"], vit.state_dict())


def test_weights_of_all_tasks_are_known() -> None:
    with pytest.raises(
        CheckpointError, match=r"'imagenet' are known for ECViT\('ecvitt'\) \(known: ecdet, ecseg, ecpose\)"
    ):
        ECViT("ecvitt", [0], weights="imagenet")
