"""Checkpoints of DEIMv2's official code, and of DINOv3 and its layout in transformers."""

import logging
import re
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deim.checkpoint.backbone import load_backbone_weights
from deim.checkpoint.formats import deimv2, dinov3, recognize
from deim.checkpoint.formats.backbones import BACKBONE_FORMATS
from deim.checkpoint.formats.dfine import FDR_REPEATS
from deim.checkpoint.formats.format import Format
from deim.checkpoint.loading import load_weights
from deim.checkpoint.reading import StoredWeights
from deim.checkpoint.renaming import match_template
from deim.conversion import convert, convert_backbone, identification
from deim.conversion.deimv2_folder import build_deimv2_config
from deim.errors import CheckpointError
from deim.inference import deployment_form
from deim.modeling.backbone import HGNetV2, SpatialTuningAdapter, VisionTransformer, build_vit
from tests.checkpoint.foreign import digest
from tests.conftest import ROOT, long_except
from tests.deimv2 import MODELS, build_model, model_config
from tests.models import randomize, recipe

# Tensors of a detector in the official code: (their number, digest) in training and in deployment form.
OFFICIAL = {
    "dinov3_x": ((989, "4536ead10b4e3dd4"), (551, "44242ecb67ad753d")),
    "dinov3_l": ((809, "822cbe489d2f95cd"), (463, "982ffcfffed18a19")),
    "dinov3_m": ((769, "5e0a43bcca9638fa"), (423, "66a513b40139b11a")),
    "dinov3_s": ((673, "9bbfdbe5ea51047c"), (407, "b25713053697f348")),
    "hgnetv2_x": ((1325, "d42d76d29003651a"), (967, "d6fc9dafdfb41ec1")),
    "hgnetv2_l": ((1137, "70312b9f299418e3"), (779, "fdf72bd02a6de0b3")),
    "hgnetv2_m": ((943, "a681ff4e3bbecb4a"), (677, "d6902650cb2f8edc")),
    "hgnetv2_s": ((729, "2ce7a51252fb1717"), (517, "13b1ad2a1ffb7593")),
    "hgnetv2_n": ((639, "ae40f1b585d2188a"), (487, "a1232b2627a05fa9")),
    "hgnetv2_pico": ((551, "76354a63fcb51f11"), (407, "209e1e63a4d055f0")),
    "hgnetv2_femto": ((493, "4b7aee6e888ac0c3"), (349, "91a0313754234b14")),
    "hgnetv2_atto": ((493, "aa7193441c0ee3f0"), (349, "ce3865c992c71f50")),
}
# Sides of the square images for which official models store anchors.
IMAGE_SIZES = {"hgnetv2_femto": 416, "hgnetv2_atto": 320}


def image_size(name: str) -> tuple[int, int]:
    side = IMAGE_SIZES.get(name, 640)
    return side, side


def official_weights(name: str, model: nn.Module) -> tuple[dict[str, Tensor], Format]:
    """Return weights of a model under their official names, and their format."""
    (layout,) = (layout for layout in deimv2.FORMATS if layout.supports(model))
    return layout.from_native(model.state_dict(), model, image_size(name)), layout


def without_copies(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without second copies of tensors, which cannot be compared on the meta device."""
    return {name: value for name, value in weights.items() if name not in {repeat.copy for repeat in FDR_REPEATS}}


@pytest.mark.parametrize("name", long_except(["dinov3_l", "dinov3_s", "hgnetv2_n", "hgnetv2_atto"], MODELS))
def test_names_and_shapes_are_the_official_ones(name: str) -> None:
    for form, expected in zip(("training", "deployment"), OFFICIAL[name], strict=True):
        model = build_model(name)
        if form == "deployment":
            model = deployment_form(model)
        weights = model.state_dict()
        theirs, layout = official_weights(name, model)
        assert digest(theirs) == expected
        assert recognize(theirs) is layout
        back, unknown = layout.to_native(without_copies(theirs))
        assert unknown == []
        assert back.keys() == weights.keys()


def tiny_detector(name: str, seed: int = 0) -> nn.Module:
    """Return a model with random values and few classes."""
    torch.manual_seed(seed)
    config = model_config(name)
    config.num_classes = 6
    return randomize(instantiate(config))


@pytest.mark.parametrize("name", ["hgnetv2_atto", "dinov3_s"])
def test_official_files_are_converted_both_ways(name: str, tmp_path: Path) -> None:
    """The shared box head of Atto is stored once per layer; gate and value of the feed-forward layer are one tensor."""
    model, loaded = tiny_detector(name), tiny_detector(name, seed=1)
    theirs, layout = official_weights(name, model)
    first = "decoder.decoder.layers.0.swish_ffn"
    w1, w2 = (model.get_parameter(f"decoder.layers.0.feedforward.w{i}.weight") for i in (1, 2))
    assert torch.equal(theirs[f"{first}.w12.weight"], torch.cat([w1, w2]))
    heads = [theirs[f"decoder.dec_bbox_head.{i}.layers.0.weight"] for i in range(3)]
    assert all(torch.equal(heads[0], head) for head in heads) == (name == "hgnetv2_atto")
    torch.save({"model": {}, "ema": {"module": theirs}}, tmp_path / "official.pth")
    load_weights(loaded, str(tmp_path / "official.pth"))
    assert_equal_weights(loaded.state_dict(), model.state_dict())
    again = layout.from_native(loaded.state_dict(), loaded, image_size(name))
    assert_equal_weights(again, theirs)


@pytest.mark.parametrize("name", ["hgnetv2_atto", "dinov3_s"])
def test_folders_of_hugging_face_hub_are_loaded(name: str, tmp_path: Path) -> None:
    """``PyTorchModelHubMixin`` stores a tensor with several names only under the name that is first in sorted order."""
    model, loaded = tiny_detector(name), tiny_detector(name, seed=1)
    theirs, _ = official_weights(name, model)
    duplicates = {"decoder.up", "decoder.reg_scale"}
    if name == "hgnetv2_atto":
        duplicates |= {key for key in theirs if re.match(r"decoder\.dec_bbox_head\.[12]\.", key)}
        assert len(duplicates) == 2 + 2 * 6
    assert duplicates <= theirs.keys()
    save_file(
        {key: value.clone() for key, value in theirs.items() if key not in duplicates}, tmp_path / "model.safetensors"
    )
    (tmp_path / "config.json").write_text('{"DEIMTransformer": {"num_layers": 3}}', encoding="utf-8")
    load_weights(loaded, str(tmp_path))
    assert_equal_weights(loaded.state_dict(), model.state_dict())
    identified = convert(str(tmp_path), str(tmp_path / "native.pth"))
    assert (identified.recipe, identified.model.num_classes) == (f"deimv2/deimv2_{name}_coco", 6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "hgnetv2_atto",
            {
                "HGNetv2": {"name": "Atto", "return_idx": [2], "freeze_at": -1, "freeze_norm": False, "use_lab": True},
                "LiteEncoder": {
                    "in_channels": [256],
                    "feat_strides": [16],
                    "hidden_dim": 64,
                    "expansion": 0.34,
                    "depth_mult": 0.5,
                    "act": "silu",
                },
                "DEIMTransformer": {
                    "feat_channels": [64, 64],
                    "feat_strides": [16, 32],
                    "hidden_dim": 64,
                    "num_levels": 2,
                    "num_points": [4, 2],
                    "num_layers": 3,
                    "eval_idx": -1,
                    "num_queries": 100,
                    "dim_feedforward": 160,
                    "share_bbox_head": True,
                    "use_gateway": False,
                    "eval_spatial_size": [320, 320],
                },
                "PostProcessor": {"num_top_queries": 300},
            },
        ),
        (
            "dinov3_s",
            {
                "DINOv3STAs": {"name": "vit_tiny", "embed_dim": 192, "num_heads": 3},
                "HybridEncoder": {
                    "in_channels": [192] * 3,
                    "feat_strides": [8, 16, 32],
                    "hidden_dim": 192,
                    "use_encoder_idx": [2],
                    "dim_feedforward": 512,
                    "expansion": 0.34,
                    "depth_mult": 0.67,
                    "version": "deim",
                    "csp_type": "csp2",
                    "fuse_op": "sum",
                },
                "DEIMTransformer": {"num_layers": 4, "num_points": [3, 6, 3], "dim_feedforward": 512},
            },
        ),
        ("hgnetv2_n", {"HGNetv2": {"name": "B0", "return_idx": [2, 3]}, "HybridEncoder": {"version": "dfine"}}),
        (
            "dinov3_l",
            {
                "DINOv3STAs": {"name": "dinov3_vits16", "conv_inplane": 32, "hidden_dim": 224},
                "DEIMTransformer": {"dim_feedforward": 1792, "feat_channels": [224] * 3},
            },
        ),
    ],
)
def test_configs_of_hugging_face_folders(name: str, expected: dict) -> None:
    """The values are those of the authors' notebook ``hf_models.ipynb``."""
    cfg = recipe(f"deimv2_{name}_coco")
    config = build_deimv2_config(cfg, cfg.dataloader.image_size)
    assert config.keys() - {"PostProcessor"} >= expected.keys() - {"PostProcessor"}
    for part, values in expected.items():
        assert {key: config[part][key] for key in values} == values


@pytest.mark.parametrize("name", long_except(["hgnetv2_atto"], ["hgnetv2_atto", "dinov3_s"]))
def test_written_folders_are_read_again(name: str, tmp_path: Path) -> None:
    model = tiny_detector(name)
    torch.save({"model": model.state_dict()}, tmp_path / "native.pth")
    convert(str(tmp_path / "native.pth"), str(tmp_path / "hf"), to="hf", recipe=f"deimv2/deimv2_{name}_coco")
    stored = load_file(tmp_path / "hf" / "model.safetensors")
    assert "decoder.decoder.up" in stored
    assert "decoder.up" not in stored, "tensors with several names are stored once"
    convert(str(tmp_path / "hf"), str(tmp_path / "restored.pth"))
    restored = torch.load(tmp_path / "restored.pth", weights_only=True)["model"]
    assert_equal_weights(restored, model.state_dict())


def test_deployed_weights_have_no_folder(tmp_path: Path) -> None:
    model = deployment_form(tiny_detector("hgnetv2_atto"))
    torch.save({"model": model.state_dict()}, tmp_path / "deployed.pth")
    with pytest.raises(CheckpointError, match="Hugging Face folders have the training form"):
        convert(str(tmp_path / "deployed.pth"), str(tmp_path / "hf"), to="hf", recipe="deimv2/deimv2_hgnetv2_atto_coco")


def test_a_format_without_recipes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identification, "available", list)
    theirs, _ = official_weights("hgnetv2_atto", tiny_detector("hgnetv2_atto"))
    with pytest.raises(CheckpointError, match="DEIMv2 with HGNetV2 and the lite encoder, for which there is no recipe"):
        identification.identify(StoredWeights("official.pth", theirs))


def test_a_config_identifies_official_weights(tmp_path: Path) -> None:
    """``--recipe`` accepts the config of a model that has no recipe."""
    model = tiny_detector("hgnetv2_atto")
    theirs, _ = official_weights("hgnetv2_atto", model)
    config = LazyConfig.load(str(ROOT / "projects/deim_dfine/configs/deim_dfine_n_coco.py"))
    config.model = model_config("hgnetv2_atto")
    LazyConfig.save(config, str(tmp_path / "atto.yaml"))
    identified = identification.identify(StoredWeights("official.pth", theirs), recipe=str(tmp_path / "atto.yaml"))
    assert identified.source_format is not None
    assert (identified.source_format.name, identified.form, identified.model.num_classes) == ("deimv2", "training", 6)
    assert_equal_weights(identified.weights, model.state_dict())


def test_different_copies_of_the_box_head_are_rejected(tmp_path: Path) -> None:
    model = tiny_detector("hgnetv2_atto")
    theirs, _ = official_weights("hgnetv2_atto", model)
    theirs["decoder.dec_bbox_head.1.layers.0.weight"] = theirs["decoder.dec_bbox_head.1.layers.0.weight"] + 1
    torch.save(theirs, tmp_path / "official.pth")
    with pytest.raises(CheckpointError, match=r"corner_heads.1.* and .*corner_heads.0.* are one tensor in this model"):
        load_weights(model, str(tmp_path / "official.pth"))


def test_mask_tokens_of_pretraining_are_ignored() -> None:
    """Official detectors with DINOv3 store the trained mask token; its value cannot be restored."""
    model = build_model("dinov3_l")
    theirs, layout = official_weights("dinov3_l", model)
    token = "backbone.dinov3.mask_token"
    assert torch.equal(theirs[token], torch.zeros(1, 384))
    theirs[token] = torch.ones(1, 384)
    layout.check_constants(theirs, model)
    _, unknown = layout.to_native(without_copies(theirs))
    assert unknown == []
    theirs["backbone.dinov3.rope_embed.periods"] += 1
    with pytest.raises(CheckpointError, match=r"rope_embed\.periods is"):
        layout.check_constants(theirs, model)


def tiny_vit(gated: bool, seed: int = 0) -> VisionTransformer:
    torch.manual_seed(seed)
    return randomize(
        VisionTransformer(
            16, 2, 24, [1], gated=gated, num_registers=4, key_bias=False, layer_scale=1e-5, final_norm=True
        )
    )


def assert_equal_weights(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(actual[name], value)] == []


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
    identified = convert_backbone(str(tmp_path / "file.pth"), str(tmp_path / "out.pth"))
    assert identified is not None
    assert (identified.config, identified.unused) == (config, [])
