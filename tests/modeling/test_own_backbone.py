"""A backbone outside this package states everything about itself: no list of this package names it."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import configurable, get_cfg, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_backbone
from torch import Tensor, nn

from deim.checkpoint.backbone import load_backbone_weights
from deim.checkpoint.pretrained import (
    BackboneDescription,
    PixelStatistics,
    PretrainedBackbone,
    backbone_weights_path,
    describe_backbone,
    pixel_statistics_for,
)
from deim.checkpoint.reading import read_weights
from deim.checkpoint.renaming import rename
from deim.config.yacs import add_deim_config
from deim.conversion.backbones import identify_backbone
from deim.engine.performance.activation_checkpointing import checkpoint_activations
from deim.modeling.backbone.yacs import yacs_keys
from tests.models import batch, recipe
from tests.web import File, Web, redirect

URL = "https://example.com/own_backbone_64.pth"
GRAY = PixelStatistics((128.0, 128.0, 128.0), (64.0, 64.0, 64.0))


class OwnBlock(nn.Module):
    supports_activation_checkpointing = True

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, stride, stride)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()


def own_variants(names: Collection[str]) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    yield "OwnBackbone(width=64)", lambda: OwnBackbone(64, weights="")


@BACKBONE_REGISTRY.register()
@describe_backbone(BackboneDescription("width", (PretrainedBackbone(64, "imagenet", URL, GRAY),), own_variants))
@yacs_keys("OWN", width=64, weights="")
class OwnBackbone(Backbone):
    weight_rules = (rename("features.#.*", "blocks.#.*"),)

    @configurable
    def __init__(self, width: int, out_features: tuple[str, ...] = ("fine", "coarse"), *, weights: str):
        super().__init__()
        self.blocks = nn.ModuleList([OwnBlock(3, width, 16), OwnBlock(width, 2 * width, 2)])
        self._out_features = list(out_features)
        self._out_feature_channels = {"fine": width, "coarse": 2 * width}
        self._out_feature_strides = {"fine": 16, "coarse": 32}
        if weights:
            load_backbone_weights(self, backbone_weights_path(weights, "OwnBackbone", width))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        fine = self.blocks[0](images)
        return {"fine": fine, "coarse": self.blocks[1](fine)}


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file of weights as the authors of the backbone publish them, which the web has under ``URL``."""
    torch.manual_seed(1)
    state = OwnBackbone(64, weights="").state_dict()
    path = tmp_path / "published.pth"
    torch.save({name.replace("blocks.", "features."): value for name, value in state.items()}, path)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    return path


def test_backbone_trains_with_published_weights_and_activation_checkpointing(published: Path) -> None:
    cfg = recipe("deim_dfine_n_shapes", "model.decoder.queries.num_queries=10")
    with Web().running() as web, redirect(web.port):
        web.files[URL] = File(published.read_bytes())
        cfg.model.backbone = L(OwnBackbone)(width=64, weights="imagenet")
        model = instantiate(cfg.model).train()
    weights = torch.load(published, weights_only=True)
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, weights[name.replace("blocks.", "features.")])
    results = []
    for parts in ((), ("backbone",)):
        checkpoint_activations(model, parts)
        model.zero_grad()
        torch.manual_seed(0)
        sum(model(batch([2, 1])).values()).backward()
        results.append(model.backbone.blocks[0].conv.weight.grad.clone())
    assert torch.equal(results[0], results[1])
    assert results[0].abs().sum() > 0


def test_pixel_normalization_of_published_weights() -> None:
    assert pixel_statistics_for("imagenet", {"builder": "OwnBackbone", "size": 64}) == GRAY
    assert pixel_statistics_for("/weights/own_backbone_64.pth", {}) == GRAY


def test_conversion_identifies_the_backbone(published: Path) -> None:
    identified = identify_backbone(read_weights(str(published)))
    assert identified is not None
    assert (identified.config, identified.unused) == ("OwnBackbone(width=64)", [])
    assert identified.weights.keys() == OwnBackbone(64, weights="").state_dict().keys()


def test_yacs_config_builds_the_backbone(published: Path) -> None:
    cfg = get_cfg()
    add_deim_config(cfg)
    assert dict(cfg.MODEL.OWN) == {"WIDTH": 64, "OUT_FEATURES": ["fine", "coarse"], "WEIGHTS": ""}
    cfg.MODEL.BACKBONE.NAME = "OwnBackbone"
    cfg.MODEL.OWN.OUT_FEATURES, cfg.MODEL.OWN.WEIGHTS = ["coarse"], str(published)
    backbone = build_backbone(cfg)
    assert backbone.output_shape() == {"coarse": ShapeSpec(channels=128, stride=32)}
    assert torch.equal(
        backbone.blocks[0].conv.weight, torch.load(published, weights_only=True)["features.0.conv.weight"]
    )


def test_yacs_keys_need_defaults() -> None:
    with pytest.raises(ValueError, match=r"cfg\.MODEL\.NONE of OwnBackbone needs defaults for width, weights"):
        yacs_keys("NONE")(OwnBackbone)
