"""Names of DEIMv2's official code, of DINOv3 and of transformers for backbones and encoders."""

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deim.checkpoint.backbone import load_backbone_weights
from deim.checkpoint.formats import deimv2, dinov3
from deim.checkpoint.formats.backbones import BACKBONE_FORMATS
from deim.checkpoint.renaming import Rule, from_native, match_template, to_native
from deim.conversion import convert_backbone
from deim.errors import CheckpointError
from deim.inference import reparameterized
from deim.modeling.backbone import HGNetV2, SpatialTuningAdapter, VisionTransformer, build_vit
from tests.checkpoint.foreign import digest
from tests.conftest import long_except
from tests.deimv2 import MODELS, backbone_and_encoder
from tests.models import randomize

# Tensors of backbone and encoder in the official code: (their number, digest) in training and in deployment form.
OFFICIAL = {
    "dinov3_x": ((782, "987a62e55c22f6e4"), (374, "9eb7709cb4f30189")),
    "dinov3_l": ((662, "8f824b9e115567d5"), (334, "55f9ee81fa49df49")),
    "dinov3_m": ((622, "bcc0be448cf15f67"), (294, "b57100d0cc2519e8")),
    "dinov3_s": ((526, "85f15d47cb296adb"), (278, "c071f0f64fdd26b8")),
    "hgnetv2_x": ((1100, "60e46a96c12d9504"), (772, "4879b2c9f4665cc4")),
    "hgnetv2_l": ((930, "f05a5505b846a404"), (602, "6a8e961dac839e8f")),
    "hgnetv2_m": ((796, "5f7f8e1b4266b9b4"), (548, "b4e8de35abe23ea5")),
    "hgnetv2_s": ((612, "f7eae978237e066b"), (412, "5951e55b259381c1")),
    "hgnetv2_n": ((522, "bdc4a470d090d98d"), (382, "82227d1c9ad38c8d")),
    "hgnetv2_pico": ((440, "ff4cab947e71bdbb"), (308, "8154347293bbe7e9")),
    "hgnetv2_femto": ((382, "1ec1881bb7211489"), (250, "323032f8855432bd")),
    "hgnetv2_atto": ((382, "4d065d9517202eb7"), (250, "93ab763ef3bb32ad")),
}


def rules_of(name: str) -> tuple[tuple[Rule, ...], str]:
    """Return the rules of a model, and the prefix of its vision transformer in official files; "" without one."""
    if name in ("dinov3_x", "dinov3_l"):
        return deimv2.DINOV3_DETECTOR, "backbone.dinov3."
    if name in ("dinov3_m", "dinov3_s"):
        return deimv2.VIT_TINY_DETECTOR, "backbone.dinov3._model."
    return (deimv2.LITE_DETECTOR if "lite" in str(MODELS[name][1]).lower() else deimv2.HGNETV2_DETECTOR), ""


@pytest.mark.parametrize("name", long_except(["dinov3_l", "dinov3_s", "hgnetv2_n", "hgnetv2_atto"], MODELS))
def test_names_and_shapes_are_the_official_ones(name: str) -> None:
    rules, vit = rules_of(name)
    for form, expected in zip(("training", "deployment"), OFFICIAL[name], strict=True):
        model = backbone_and_encoder(name)
        if form == "deployment":
            model = reparameterized(model)
        weights = model.state_dict()
        theirs, left_over = from_native(weights, rules)
        assert left_over == []
        constants: dict[str, Tensor] = {}
        if vit:
            constants = {vit + n: value for n, value in dinov3.constants(model["backbone"].vit).items()}
            constants |= {vit + n: value for n, value in dinov3.unused(model["backbone"].vit).items()}
        assert digest(theirs | constants) == expected
        back, unknown = to_native(theirs | constants, rules)
        assert sorted(unknown) == sorted(constants)
        assert back.keys() == weights.keys()
        assert all(back[n] is value for n, value in weights.items())


def tiny_vit(gated: bool, seed: int = 0) -> VisionTransformer:
    torch.manual_seed(seed)
    return randomize(
        VisionTransformer(
            16, 2, 24, [1], gated=gated, num_registers=4, key_bias=False, layer_scale=1e-5, final_norm=True
        )
    )


def assert_equal_weights(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []


def test_official_dinov3_files_are_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vit, loaded = tiny_vit(gated=True), tiny_vit(gated=True, seed=1)
    torch.save(vit.state_dict() | dinov3.constants(vit) | dinov3.unused(vit), tmp_path / "dinov3.pth")
    with caplog.at_level(logging.INFO):
        load_backbone_weights(loaded, str(tmp_path / "dinov3.pth"))
    assert_equal_weights(loaded.state_dict(), vit.state_dict())
    assert "unused: mask_token" in caplog.text
    with pytest.raises(CheckpointError, match="does not fit this VisionTransformer"):
        load_backbone_weights(tiny_vit(gated=False), str(tmp_path / "dinov3.pth"))


def test_constants_of_dinov3() -> None:
    """The periods of DINOv3's rotary embedding, base 100, and the mask of the bias of queries, keys and values."""
    constants = dinov3.constants(tiny_vit(gated=True))
    torch.testing.assert_close(constants["rope_embed.periods"], torch.tensor([1.0, 10.0]))
    mask = constants["blocks.1.attn.qkv.bias_mask"]
    assert torch.equal(mask, torch.tensor([1.0] * 16 + [0.0] * 16 + [1.0] * 16))
    assert all(any(match_template(template, name) is not None for template in dinov3.CONSTANTS) for name in constants)


@pytest.mark.parametrize("prefix", ["", "model."], ids=["published", "own"])
@pytest.mark.parametrize("gated", [True, False], ids=["swiglu", "mlp"])
def test_files_of_transformers_are_loaded(gated: bool, prefix: str, tmp_path: Path) -> None:
    """Published files have other names of layers than the modules of transformers."""
    vit, loaded = tiny_vit(gated), tiny_vit(gated, seed=1)
    with torch.no_grad():
        for block in vit.blocks:
            block.attn.qkv.bias[16:32] = 0.0
    mlp = "gate_proj" if gated else "up_proj"
    layout = next(fmt for fmt in BACKBONE_FORMATS if f"*.mlp.{mlp}.weight" in fmt.signature)
    theirs, left_over = layout.from_native(vit.state_dict())
    assert left_over == []
    assert "layer.0.attention.q_proj.bias" in theirs
    assert "layer.0.attention.k_proj.bias" not in theirs
    renamed = {prefix + name if name.startswith("layer.") else name: value for name, value in theirs.items()}
    torch.save(renamed | {"embeddings.mask_token": torch.zeros(1, 1, 16)}, tmp_path / "hf.pth")
    assert layout.recognizes(renamed)
    load_backbone_weights(loaded, str(tmp_path / "hf.pth"))
    assert_equal_weights(loaded.state_dict(), vit.state_dict())


def test_an_adapter_starts_from_a_transformer(tmp_path: Path) -> None:
    """The other parts keep their initial values; a file of the whole adapter replaces them as well."""
    torch.manual_seed(0)
    vit = randomize(build_vit("vit_tiny", [2]))
    torch.save(vit.state_dict() | dinov3.constants(vit), tmp_path / "vitt_distill.pt")
    adapter = SpatialTuningAdapter("vit_tiny", [0, 1, 2], weights=str(tmp_path / "vitt_distill.pt"))
    assert_equal_weights(adapter.vit.state_dict(), vit.state_dict())
    torch.save(adapter.state_dict(), tmp_path / "adapter.pth")
    again = SpatialTuningAdapter("vit_tiny", [0, 1, 2], weights=str(tmp_path / "adapter.pth"))
    assert_equal_weights(again.state_dict(), adapter.state_dict())
    with pytest.raises(CheckpointError, match="does not fit this SpatialTuningAdapter"):
        SpatialTuningAdapter("vit_tinyplus", [0, 1, 2], weights=str(tmp_path / "vitt_distill.pt"))


@pytest.mark.parametrize(("name", "resized"), [("Atto", 13), ("Femto", 0), ("Pico", 0)])
def test_reduced_sizes_start_from_b0(name: str, resized: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = {}
    for size in ("B0", "B1"):
        weights[size] = randomize(HGNetV2(size, learnable_affine=True)).state_dict()
        torch.save(weights[size], tmp_path / f"{size}.pth")
    options = {"learnable_affine": True, "out_features": ["stage3"]}
    loaded = HGNetV2(name, weights=str(tmp_path / "B0.pth"), **options).state_dict()
    different = [n for n, v in loaded.items() if v.shape != weights["B0"][n].shape]
    assert len(different) == resized
    assert all(torch.equal(value, weights["B0"][n]) for n, value in loaded.items() if n not in different)
    with pytest.raises(CheckpointError, match="does not fit this HGNetV2"):
        HGNetV2(name, weights=str(tmp_path / "B1.pth"), **options)


@pytest.mark.parametrize(
    "config",
    [
        'HGNetV2(name="Atto", learnable_affine=False, out_features=["stage3"])',
        'build_vit(size="vit_tiny", out_blocks=[11])',
    ],
)
def test_backbone_files_are_identified(config: str, tmp_path: Path) -> None:
    backbone = eval(config)
    torch.save(backbone.state_dict(), tmp_path / "file.pth")
    found = convert_backbone(str(tmp_path / "file.pth"), str(tmp_path / "out.pth"))
    assert found is not None
    assert (found.config, found.unused) == (config, [])
