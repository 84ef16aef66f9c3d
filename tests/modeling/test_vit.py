"""Vision transformers: rotary embeddings, special tokens, sizes, export, compilation."""

import math
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from deim.engine.performance.activation_checkpointing import checkpoint_activations
from deim.errors import CheckpointError
from deim.inference.deployment import fold_norms
from deim.layers.rotary_attention import QueryKeyValue, cosines_and_sines, rotary_angles, rotate
from deim.modeling.backbone import VisionTransformer, build_vit
from deim.modeling.backbone.vit import LayerScale
from tests.conftest import needs_utf8
from tests.models import compile_without_graph_breaks, randomize

pytestmark = pytest.mark.usefixtures("double_precision")


def tiny_vit(dinov3: bool = True, **options) -> VisionTransformer:
    """Return a transformer of two blocks with patches of 4 x 4 pixels and random weights."""
    torch.manual_seed(0)
    if dinov3:
        options = {
            "num_registers": 3,
            "key_bias": False,
            "layer_scale": 0.5,
            "final_norm": True,
            "gated": True,
            **options,
        }
    return randomize(VisionTransformer(16, 2, 24, [0, 1], patch_size=4, **options), 0.3)


@pytest.mark.parametrize("gated", [True, False], ids=["swiglu", "mlp"])
def test_layer_scales_are_folded_for_deployment(gated: bool) -> None:
    vit, images = tiny_vit(gated=gated).eval(), torch.rand(2, 3, 16, 24)
    expected = vit(images)
    fold_norms(vit)
    assert not [name for name, module in vit.named_modules() if isinstance(module, LayerScale)]
    for name, feature in vit(images).items():
        torch.testing.assert_close(feature, expected[name], rtol=0, atol=1e-12)


class LastFeature(nn.Module):
    """Return the last feature map, for exporters that expect tensors."""

    def __init__(self, vit: VisionTransformer):
        super().__init__()
        self.vit = vit

    def forward(self, images: Tensor) -> Tensor:
        return self.vit(images)["block1"]


@pytest.mark.parametrize("size", [(8, 12), (20, 4)], ids=str)
def test_rotation_equals_complex_multiplication(size: tuple[int, int]) -> None:
    """Channel k and channel k + C / 2 are the real and the imaginary part of one number."""
    height, width = size
    head_dim, base, prefix = 12, 50.0, 2
    x = torch.randn(2, 3, prefix + height * width, head_dim)
    rotated = rotate(x, cosines_and_sines(rotary_angles(height, width, head_dim, prefix, base, dtype=torch.float64)))
    numbers = torch.complex(x[..., : head_dim // 2], x[..., head_dim // 2 :])
    for row in range(height):
        for column in range(width):
            factors = []
            for position in ((2 * row + 1) / height - 1, (2 * column + 1) / width - 1):
                for k in range(head_dim // 4):
                    factors.append(torch.tensor(1j * 2 * math.pi * position / base ** (2 * k / (head_dim / 2))).exp())
            numbers[:, :, prefix + row * width + column] *= torch.stack(factors)
    expected = torch.cat([numbers.real, numbers.imag], dim=-1)
    torch.testing.assert_close(rotated, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(rotated[:, :, :prefix], x[:, :, :prefix]), "special tokens are not rotated"


def test_rotation_is_computed_in_full_precision() -> None:
    x = torch.randn(5, 8).bfloat16()
    rotary = torch.stack([torch.full((5, 4), 0.3), torch.full((5, 4), 0.7)]).float()
    rotated = rotate(x, rotary)
    assert rotated.dtype == torch.bfloat16
    assert torch.equal(rotated, rotate(x.float(), rotary).bfloat16())


def test_keys_without_bias_ignore_the_keys_third_of_the_bias() -> None:
    with_bias, without = QueryKeyValue(6, key_bias=True), QueryKeyValue(6, key_bias=False)
    without.load_state_dict(with_bias.state_dict())
    nn.init.uniform_(with_bias.bias)
    without.bias.data.copy_(with_bias.bias)
    x = torch.randn(4, 6)
    difference = with_bias(x) - without(x)
    expected = torch.cat([torch.zeros(6), with_bias.bias.detach()[6:12], torch.zeros(6)]).expand(4, -1)
    torch.testing.assert_close(difference, expected)
    without(x).sum().backward()
    assert without.bias.grad is not None
    assert torch.equal(without.bias.grad[6:12], torch.zeros(6))


@pytest.mark.parametrize("size", [(16, 16), (8, 24), (20, 12)], ids=str)
@pytest.mark.parametrize("dinov3", [True, False], ids=["dinov3", "plain"])
def test_images_of_any_multiple_of_the_patch(dinov3: bool, size: tuple[int, int]) -> None:
    vit = tiny_vit(dinov3)
    features = vit(torch.randn(2, 3, *size))
    assert list(features) == list(vit.output_shape()) == ["block0", "block1"]
    assert all(feature.shape == (2, 16, size[0] // 4, size[1] // 4) for feature in features.values())
    assert {(shape.channels, shape.stride) for shape in vit.output_shape().values()} == {(16, 4)}
    sum(feature.sum() for feature in features.values()).backward()
    assert all(p.grad is not None for p in vit.parameters())
    with pytest.raises(ValueError, match="multiples of the patch size 4"):
        vit(torch.randn(1, 3, size[0] + 1, size[1]))


def test_features_are_single_tokens_in_row_major_order() -> None:
    """Without attention, a change of one patch changes one position."""
    vit = tiny_vit().eval()
    for block in vit.blocks:
        nn.init.zeros_(block.attn.proj.weight)
    images = torch.randn(1, 3, 12, 20)
    changed = images.clone()
    changed[:, :, 4:8, 12:16] += 1.0
    difference = (vit(images)["block1"] - vit(changed)["block1"]).abs().amax(dim=1)[0]
    assert difference.nonzero().tolist() == [[1, 3]]


def test_coordinates_are_rescaled_in_training_only() -> None:
    vit = tiny_vit(rope_rescale=2.0)
    images = torch.randn(1, 3, 16, 16)
    assert not torch.equal(vit(images)["block1"], vit(images)["block1"])
    vit.eval()
    assert torch.equal(vit(images)["block1"], vit(images)["block1"])
    assert torch.equal(vit(images)["block1"], tiny_vit().eval()(images)["block1"])


def test_later_blocks_are_not_built() -> None:
    assert len(VisionTransformer(16, 2, 24, [1, 3]).blocks) == 4


@torch.no_grad()
def test_a_traced_model_accepts_other_sizes() -> None:
    model = LastFeature(tiny_vit()).eval()
    traced = torch.jit.trace(model, torch.randn(1, 3, 16, 16), check_trace=False)
    for size in ((16, 16), (12, 24)):
        images = torch.randn(2, 3, *size)
        torch.testing.assert_close(traced(images), model(images))


@torch.no_grad()
@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.long)], ids=["traced", "any-size"])
def test_onnx_runtime_agrees(dynamo: bool, tmp_path: Path) -> None:
    model = LastFeature(tiny_vit()).float().eval()
    images, path = torch.randn(1, 3, 16, 24, dtype=torch.float32), str(tmp_path / "vit.onnx")
    if dynamo:
        sides = {2: 4 * torch.export.Dim("h", min=2, max=64), 3: 4 * torch.export.Dim("w", min=2, max=64)}
        torch.onnx.export(model, (images,), path, dynamo=True, opset_version=18, dynamic_shapes=(sides,), verbose=False)
        images = torch.randn(1, 3, 32, 12, dtype=torch.float32)
    else:
        torch.onnx.export(model, (images,), path, dynamo=False, opset_version=17)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(actual), model(images), rtol=1e-4, atol=1e-5)


@needs_utf8
def test_vit_compiles_without_graph_breaks() -> None:
    vit = tiny_vit(rope_rescale=None).float()
    images = torch.randn(1, 3, 16, 16, dtype=torch.float32)
    expected = vit(images)["block1"]
    with compile_without_graph_breaks("aot_eager"):
        vit.compile(dynamic=False)
        torch.testing.assert_close(vit(images)["block1"], expected, rtol=1e-4, atol=1e-5)


def test_activation_checkpointing_changes_no_gradient() -> None:
    """The backward pass computes the blocks again with the same random coordinates."""
    gradients = []
    for parts in ((), ("vit",)):
        model = LastFeature(tiny_vit(rope_rescale=2.0))
        checkpoint_activations(model, parts)
        torch.manual_seed(1)
        model(torch.linspace(-1, 1, 768).view(1, 3, 16, 16)).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert all(torch.equal(gradients[1][name], value) for name, value in gradients[0].items() if value is not None)


@torch.no_grad()
def test_features_computed_in_inference_mode_do_not_hinder_training() -> None:
    """The angles are cached between calls."""
    vit = tiny_vit()
    images = torch.randn(1, 3, 28, 36)
    with torch.inference_mode():
        vit(images)
    with torch.enable_grad():
        vit(images)["block1"].sum().backward()


# Parameters of the official build; the mask token is used in pretraining only, and ours has none.
OFFICIAL_PARAMETERS = {
    "vit_tiny": (5_486_208, 0),
    "vit_tinyplus": (9_674_240, 0),
    "dinov3_vits16": (21_601_152, 384),
    "dinov3_vits16plus": (28_697_472, 384),
}


@pytest.mark.parametrize("size", OFFICIAL_PARAMETERS)
def test_numbers_of_parameters_are_the_official_ones(size: str) -> None:
    with torch.device("meta"):
        vit = build_vit(size)
    total, mask_token = OFFICIAL_PARAMETERS[size]
    assert sum(p.numel() for p in vit.parameters()) + mask_token == total


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "vit_huge"}, "unknown ViT size 'vit_huge'"),
        ({"size": "vit_tiny", "out_blocks": [12]}, "blocks 0 to 11"),
        ({"size": "vit_tiny", "out_blocks": []}, "out_blocks must be"),
        ({"size": "vit_tiny", "weights": "imagenet"}, "no pretrained weights 'imagenet'"),
    ],
)
def test_invalid_arguments_are_errors(arguments: dict, message: str) -> None:
    with pytest.raises((ValueError, CheckpointError), match=message):
        build_vit(**arguments)
