"""DEIMv2's adapter and encoders against slow references that follow the paper, and their numbers of parameters."""

import math
from collections.abc import Mapping
from functools import partial

import pytest
import torch
from detectron2.config import LazyCall, instantiate
from torch import Tensor
from torch.nn import functional as F

from deim.inference import deployment_form
from deim.inference.deployment import fold_norms
from deim.modeling import HGNetV2, HybridEncoder, LiteEncoder, SpatialTuningAdapter
from tests.models import FAMILIES, batch, randomize, recipe

pytestmark = pytest.mark.usefixtures("double_precision")


Weights = Mapping[str, Tensor]


def conv_norm(x: Tensor, weights: Weights, name: str, stride: int = 1) -> Tensor:
    """Convolution and batch normalization with running statistics."""
    kernel = weights[f"{name}.conv.weight"]
    x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=x.shape[1] // kernel.shape[1])
    mean, variance, weight, bias = (
        weights[f"{name}.norm.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def bilinear(x: Tensor, height: int, width: int) -> Tensor:
    """Resize by linear interpolation between pixel centers, pixel by pixel."""
    result = torch.empty(*x.shape[:2], height, width)
    for row in range(height):
        for column in range(width):
            y = min(max((row + 0.5) * x.shape[2] / height - 0.5, 0), x.shape[2] - 1)
            z = min(max((column + 0.5) * x.shape[3] / width - 0.5, 0), x.shape[3] - 1)
            top, left = int(y), int(z)
            bottom, right = min(top + 1, x.shape[2] - 1), min(left + 1, x.shape[3] - 1)
            above = x[:, :, top, left] * (1 - z + left) + x[:, :, top, right] * (z - left)
            below = x[:, :, bottom, left] * (1 - z + left) + x[:, :, bottom, right] * (z - left)
            result[:, :, row, column] = above * (1 - y + top) + below * (y - top)
    return result


def enlarged(x: Tensor) -> Tensor:
    """Return each pixel twice in both directions."""
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


@torch.no_grad()
def test_adapter_equals_a_reference() -> None:
    torch.manual_seed(0)
    adapter = randomize(SpatialTuningAdapter("vit_tiny", [0, 1, 2], prior_channels=4, out_channels=6)).eval()
    images, weights = torch.randn(2, 3, 64, 96), adapter.state_dict()
    x = gelu(conv_norm(images, weights, "prior.stem", stride=2))
    details = [F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-math.inf), 3, stride=2)]
    for index in range(3):
        x = details[-1] if index == 0 else gelu(details[-1])
        details.append(conv_norm(x, weights, f"prior.convs.{index}", stride=2))
    expected = {}
    for index, (name, semantic) in enumerate(zip(("p3", "p4", "p5"), adapter.vit(images).values(), strict=True)):
        height, width = (side // (8, 16, 32)[index] for side in images.shape[-2:])
        joined = torch.cat([bilinear(semantic, height, width), details[index + 1]], dim=1)
        expected[name] = conv_norm(joined, weights, f"projections.{index}")
    torch.testing.assert_close(adapter(images), expected, rtol=1e-10, atol=1e-10)
    fold_norms(adapter)
    torch.testing.assert_close(adapter(images), expected, rtol=1e-10, atol=1e-10)


def test_adapter_describes_its_features() -> None:
    adapter = SpatialTuningAdapter("vit_tiny", [0, 1, 2], prior_channels=4)
    shapes = {name: (shape.channels, shape.stride) for name, shape in adapter.output_shape().items()}
    assert shapes == {"p3": (192, 8), "p4": (192, 16), "p5": (192, 32)}
    assert adapter.size_divisibility == 32
    for blocks in ([0, 1], [2, 1, 0], [1, 1, 2]):
        with pytest.raises(ValueError, match="out_blocks must be 3 indices in ascending order"):
            SpatialTuningAdapter("vit_tiny", blocks)


def rep_vgg(x: Tensor, weights: Weights, name: str) -> Tensor:
    return silu(conv_norm(x, weights, f"{name}.conv1") + conv_norm(x, weights, f"{name}.conv2"))


def elan(x: Tensor, weights: Weights, name: str, blocks: int, convolve: bool) -> Tensor:
    """Fusion block; ``convolve`` adds a 3x3 convolution after each stage."""
    first = silu(conv_norm(x, weights, f"{name}.cv1"))
    parts = list(first.split(first.shape[1] // 2, dim=1))
    for stage in ("cv2", "cv3"):
        y = silu(conv_norm(parts[-1], weights, f"{name}.{stage}.0.conv1"))
        shortcut, y = y.split(y.shape[1] // 2, dim=1)
        for index in range(blocks):
            y = rep_vgg(y, weights, f"{name}.{stage}.0.bottlenecks.{index}")
        y = shortcut + y
        parts.append(silu(conv_norm(y, weights, f"{name}.{stage}.1")) if convolve else y)
    return silu(conv_norm(torch.cat(parts, dim=1), weights, f"{name}.cv4"))


def pooled(x: Tensor, weights: Weights, name: str) -> Tensor:
    """Mean over windows of 3 x 3 pixels, with zeros around the map, at every second pixel; then a convolution."""
    padded = F.pad(x, (1, 1, 1, 1))
    rows, columns = x.shape[2] // 2, x.shape[3] // 2
    windows = [padded[:, :, i : i + 2 * rows : 2, j : j + 2 * columns : 2] for i in range(3) for j in range(3)]
    return silu(conv_norm(torch.stack(windows).mean(dim=0), weights, name))


@torch.no_grad()
def test_lite_encoder_equals_a_reference() -> None:
    torch.manual_seed(0)
    encoder = randomize(LiteEncoder(["a"], [5], hidden_dim=8, expansion=0.7, depth_multiplier=0.67), 0.3).eval()
    feature, weights = torch.randn(2, 5, 6, 8), encoder.state_dict()
    fine = conv_norm(feature, weights, "input_proj")
    coarse = pooled(fine, weights, "input_downsample")
    mean = torch.stack([coarse[:, :, i, j] for i in range(3) for j in range(4)]).mean(dim=0)
    coarse = silu(conv_norm(coarse + mean[:, :, None, None], weights, "context.cv"))
    fine = elan(fine + enlarged(coarse), weights, "fpn_block", 2, convolve=True)
    expected = [fine, elan(coarse + pooled(fine, weights, "downsample"), weights, "pan_block", 2, convolve=True)]
    for form in (encoder, deployment_form(encoder)):
        torch.testing.assert_close(form({"a": feature}), expected, rtol=1e-10, atol=1e-10)
    fold_norms(encoder)
    torch.testing.assert_close(encoder({"a": feature}), expected, rtol=1e-10, atol=1e-10)


def test_lite_encoder_takes_one_feature() -> None:
    with pytest.raises(ValueError, match="encodes one feature"):
        LiteEncoder(["a", "b"], [5, 6])


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["split_elan", "light_elan"])
def test_hybrid_encoder_of_deimv2_equals_a_reference(fusion: str) -> None:
    torch.manual_seed(0)
    make = partial(HybridEncoder, ["a", "b", "c"], [5, 8, 7], hidden_dim=8, num_heads=2, num_layers=0)
    encoder = randomize(make(fusion=fusion, merge="sum", skip_equal=True, depth_multiplier=0.67), 0.3).eval()
    features = {
        "a": torch.randn(1, 5, 16, 32),
        "b": torch.randn(1, 8, 8, 16),
        "c": torch.randn(1, 7, 4, 8),
    }
    weights = encoder.state_dict()
    block = partial(elan, weights=weights, blocks=2, convolve=fusion == "split_elan")
    fine, middle = conv_norm(features["a"], weights, "input_proj.0"), features["b"]
    coarse = conv_norm(conv_norm(features["c"], weights, "input_proj.2"), weights, "lateral_convs.0")
    middle = conv_norm(block(middle + enlarged(coarse), name="fpn_blocks.0"), weights, "lateral_convs.1")
    expected = [block(fine + enlarged(middle), name="fpn_blocks.1")]
    for index, coarser in enumerate((middle, coarse)):
        reduced = conv_norm(expected[-1], weights, f"downsample_convs.{index}.cv1")
        reduced = conv_norm(reduced, weights, f"downsample_convs.{index}.cv2", stride=2)
        expected.append(block(reduced + coarser, name=f"pan_blocks.{index}"))
    for form in (encoder, deployment_form(encoder)):
        torch.testing.assert_close(form(features), expected, rtol=1e-10, atol=1e-10)


def test_unknown_parts_are_errors() -> None:
    with pytest.raises(ValueError, match="unknown merge 'product'"):
        HybridEncoder(["a"], [5], merge="product")
    with pytest.raises(ValueError, match="choose one of csp, elan, split_elan, light_elan"):
        HybridEncoder(["a"], [5], fusion="none")


@pytest.mark.parametrize("name", ["Atto", "Femto", "Pico"])
def test_reduced_hgnetv2_has_three_stages(name: str) -> None:
    backbone = HGNetV2(name, learnable_affine=True, out_features=["stage2", "stage3"])
    features = backbone(torch.randn(2, 3, 64, 96))
    width = 256 if name == "Atto" else 512
    assert {n: tuple(f.shape) for n, f in features.items()} == {"stage2": (2, 256, 8, 12), "stage3": (2, width, 4, 6)}
    with pytest.raises(ValueError, match=r"no features \['stage4'\]; choose from \['stage1', 'stage2', 'stage3'\]"):
        HGNetV2(name)
    with pytest.raises(ValueError, match=r"freeze_at must be in \[0, 4\]"):
        HGNetV2(name, out_features=["stage3"], freeze_at=5)


@pytest.mark.parametrize("kind", ["adapter", "lite"])
def test_detector_trains_with_the_parts_of_deimv2(kind: str) -> None:
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    cfg = recipe(FAMILIES["dfine"], "model.decoder.queries.num_queries=20", "model.decoder.num_layers=2")
    if kind == "adapter":
        cfg.model.backbone = LazyCall(SpatialTuningAdapter)(size="vit_tiny", out_blocks=[0, 1, 2])
        cfg.model.decoder.input_proj.in_channels = [cfg.model.encoder.hidden_dim] * 3
        cfg.model.decoder.layer.num_points = [2, 2, 2]
    else:
        cfg.model.backbone = LazyCall(HGNetV2)(name="Atto", learnable_affine=True, out_features=["stage3"])
        cfg.model.encoder = LazyCall(LiteEncoder.for_backbone)(hidden_dim=cfg.model.encoder.hidden_dim)
    model = instantiate(cfg.model)
    sum(model(batch([2, 1])).values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    with torch.no_grad():
        assert torch.isfinite(model.eval()(batch([1]))[0]["instances"].scores).all()
