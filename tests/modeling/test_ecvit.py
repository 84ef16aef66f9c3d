"""ECViT (EdgeCrafter, arXiv 2603.18739) against a slow reference, its features and its numbers of parameters."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deim.inference import deployment_form
from deim.modeling import ECViT, build_vit
from deim.modeling.backbone import VisionTransformer
from deim.modeling.decoder import GatedDecoderLayer
from tests.ecdet import MODELS, PARAMETERS, build_model
from tests.modeling.test_spatial_tuning import bilinear, conv_norm, gelu
from tests.models import randomize

pytestmark = pytest.mark.usefixtures("double_precision")


class Reference:
    """ECViT in evaluation, with one step per line."""

    def __init__(self, backbone: ECViT, num_heads: int):
        self.weights, self.num_heads = backbone.state_dict(), num_heads

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def normalize(self, name: str, x: Tensor) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        scaled = centered / (centered.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def embed(self, images: Tensor) -> Tensor:
        for index in range(3):
            images = conv_norm(images, self.weights, f"vit.patch_embed.convs.{index}", stride=2).clamp(min=0)
        kernel, bias = (self.weights[f"vit.patch_embed.proj.{part}"] for part in ("weight", "bias"))
        return F.conv2d(images, kernel, bias, stride=2, padding=1)

    def rotate(self, x: Tensor, height: int, width: int) -> Tensor:
        """Multiply each pair of channels of the patches' tokens by a complex number; the first token is not rotated."""
        half = x.shape[-1] // 2
        numbers = torch.complex(x[..., :half], x[..., half:])
        for row in range(height):
            for column in range(width):
                for axis, position in enumerate(((2 * row + 1) / height - 1, (2 * column + 1) / width - 1)):
                    for k in range(half // 2):
                        angle = 2 * math.pi * position / 100 ** (2 * k / half)
                        numbers[..., 1 + row * width + column, axis * (half // 2) + k] *= complex(
                            math.cos(angle), math.sin(angle)
                        )
        return torch.cat([numbers.real, numbers.imag], dim=-1)

    def attend(self, name: str, x: Tensor, height: int, width: int) -> Tensor:
        query, key, value = (
            torch.stack(part.chunk(self.num_heads, dim=-1), dim=1)
            for part in self.linear(f"{name}.qkv", x).chunk(3, dim=-1)
        )
        query, key = self.rotate(query, height, width), self.rotate(key, height, width)
        weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(dim=-1)
        return self.linear(f"{name}.proj", torch.cat((weights @ value).unbind(1), dim=-1))

    def features(self, images: Tensor, blocks: list[int]) -> list[Tensor]:
        patches = self.embed(images)
        height, width = patches.shape[-2:]
        token = self.weights["vit.cls_token"].expand(len(images), -1, -1)
        x, kept = torch.cat([token, patches.flatten(2).mT], dim=1), []
        for index in range(max(blocks) + 1):
            name = f"vit.blocks.{index}"
            x = x + self.attend(f"{name}.attn", self.normalize(f"{name}.norm1", x), height, width)
            hidden = gelu(self.linear(f"{name}.mlp.fc1", self.normalize(f"{name}.norm2", x)))
            x = x + self.linear(f"{name}.mlp.fc2", hidden)
            if index in blocks:
                kept.append(x[:, 1:].mT.unflatten(-1, (height, width)))
        mean = torch.stack(kept).mean(dim=0)
        maps = [bilinear(mean, round(height * scale), round(width * scale)) for scale in (2, 1, 0.5)]
        if "projections.1.conv.weight" not in self.weights:
            return [*maps[:2], conv_norm(maps[2], self.weights, "projections.0")]
        return [conv_norm(x, self.weights, f"projections.{index}") for index, x in enumerate(maps)]


@torch.no_grad()
@pytest.mark.parametrize(("out_channels", "blocks"), [(None, [0, 1]), (6, [1])], ids=["one-projection", "three"])
def test_backbone_equals_a_reference(out_channels: int | None, blocks: list[int]) -> None:
    torch.manual_seed(0)
    backbone = randomize(ECViT("ecvitt", blocks, out_channels=out_channels)).eval()
    images = torch.randn(2, 3, 32, 64)
    expected = Reference(backbone, num_heads=3).features(images, blocks)
    for form in (backbone, deployment_form(backbone)):
        features = form(images)
        assert list(features) == ["p3", "p4", "p5"]
        torch.testing.assert_close(list(features.values()), expected, rtol=1e-10, atol=1e-10)


def test_projections_of_training_images_are_normalized_after_resizing() -> None:
    """Convolving before or after the resize gives the same statistics."""
    torch.manual_seed(0)
    backbone = ECViT("ecvitt", [0], out_channels=8).train()
    images = torch.randn(2, 3, 64, 64)
    features = backbone(images)
    (mean,) = backbone.vit(images).values()
    for (name, feature), scale, projection in zip(features.items(), (2, 1, 0.5), backbone.projections, strict=True):
        convolved = F.conv2d(bilinear(mean, round(4 * scale), round(4 * scale)), projection.conv.weight)
        expected = F.batch_norm(convolved, None, None, training=True)
        torch.testing.assert_close(feature, expected, msg=name)


def test_backbone_describes_its_features() -> None:
    for out_channels, width, projections in ((None, 192, 1), (128, 128, 3)):
        backbone = ECViT("ecvitt", [0, 1], out_channels=out_channels)
        shapes = {name: (shape.channels, shape.stride) for name, shape in backbone.output_shape().items()}
        assert shapes == {"p3": (width, 8), "p4": (width, 16), "p5": (width, 32)}
        assert (len(backbone.projections), backbone.size_divisibility) == (projections, 32)


@pytest.mark.parametrize("patch_size", [1, 12, 64])
def test_convolutions_halve_the_image_up_to_the_patch_size(patch_size: int) -> None:
    with pytest.raises(ValueError, match=f"patch_size that is a power of 2 .* got {patch_size} and 16"):
        VisionTransformer(16, 2, 24, [0], patch_size=patch_size, conv_stem=True)
    vit = VisionTransformer(16, 2, 24, [0], patch_size=8, conv_stem=True)
    assert vit(torch.randn(1, 3, 16, 24))["block0"].shape == (1, 16, 2, 3)
    assert [conv.conv.out_channels for conv in vit.patch_embed.convs] == [4, 8]


@pytest.mark.parametrize("name", MODELS)
def test_numbers_of_parameters_are_the_official_ones(name: str) -> None:
    model = build_model(name)
    parts = [model.backbone, model.encoder, model.decoder, deployment_form(model)]
    assert tuple(sum(p.numel() for p in part.parameters()) for part in parts) == PARAMETERS[name]


def test_initial_feed_forward_layers_are_those_of_linear() -> None:
    """The official code of ECDet does not initialize them, that of D-FINE does."""
    torch.manual_seed(0)
    for xavier, bound in ((True, (6 / (64 + 256)) ** 0.5), (False, 64**-0.5)):
        layer = GatedDecoderLayer(64, 8, 256, [1], xavier=xavier)
        weight = layer.linear1.weight.detach()
        assert 0.98 * bound < weight.abs().max() <= bound


def test_transformers_are_built_alone() -> None:
    vit = build_vit("ecvitt", [0])
    assert vit(torch.randn(1, 3, 32, 48))["block0"].shape == (1, 192, 2, 3)
