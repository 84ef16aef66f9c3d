"""Initial state of a run: published weights, a checkpoint, or random weights."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import Backbone
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock
from torch import nn

from deim.checkpoint import download, pretrained
from deim.checkpoint.backbone import load_backbone_weights
from deim.checkpoint.formats import dinov3
from deim.config import build, load_config, model_zoo
from deim.config.files import available
from deim.engine.evaluation import evaluate_checkpoint
from deim.engine.initial_state import (
    check_pixel_normalization,
    find_initial_state,
    load_initial_weights,
    starts_from_random_weights,
    unfreeze_random_backbone,
)
from deim.engine.run import train
from deim.errors import CheckpointError
from deim.fallback import is_standalone
from deim.inference.trained_model import load_trained
from deim.modeling.backbone import HGNetV2, PResNet, SpatialTuningAdapter, build_vit
from tests.commands import RECIPE, SMALL, data_overrides, tool
from tests.models import FAMILIES, randomize, recipe
from tests.web import File, Web, redirect

ADDRESS = pretrained.find("HGNetV2", "B0", "imagenet").url
BUILT_ON_DETREX = ("dino_deim/", "dab_detr_deim/")


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    torch.manual_seed(3)
    return randomize(HGNetV2("B0", learnable_affine=True))


@pytest.fixture
def web(backbone: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """Serve the published weights of PP-HGNetV2 B0."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "_RETRIES", 0)
    torch.save(backbone.state_dict(), tmp_path / "published.pth")
    files = {ADDRESS: File((tmp_path / "published.pth").read_bytes())}
    with Web(files).running() as web, redirect(web.port):
        yield web


def settings(shapes: Path, output: Path, *overrides: str):
    short = ["train.max_iter=1", "train.eval_period=0", "train.model_ema.enabled=false", "optimizer.lr=1e-12"]
    short += ["optimizer.params.rules.backbone.lr=1e-12"]
    return load_config(RECIPE, [*SMALL, *data_overrides(shapes), f"train.output_dir={output}", *short, *overrides])


def assert_backbone_of(path: Path, backbone: nn.Module) -> None:
    """Assert that a checkpoint contains the backbone; the learning rate of the run is negligible."""
    weights, expected = torch.load(path, weights_only=True)["model"], backbone.state_dict()
    name = "stem.stem1.conv.weight"
    torch.testing.assert_close(weights[f"backbone.{name}"], expected[name])


def test_only_a_new_run_downloads_the_backbone(shapes: Path, backbone: nn.Module, web: Web, tmp_path: Path) -> None:
    imagenet = "model.backbone.weights=imagenet"
    train(settings(shapes, tmp_path / "run", imagenet))
    assert web.count(ADDRESS) == 1
    final = tmp_path / "run" / "model_final.pth"
    assert_backbone_of(final, backbone)

    (tmp_path / "cache" / "deim" / "PPHGNetV2_B0_stage1.pth").unlink()
    train(settings(shapes, tmp_path / "run", imagenet, "train.max_iter=2"), resume_run=True)
    evaluate_checkpoint(settings(shapes, tmp_path / "evaluated", imagenet, f"train.init_checkpoint={final}"))
    train(settings(shapes, tmp_path / "tuned", imagenet, f"train.init_checkpoint={final}"))
    load_trained(str(final))
    model_zoo.get("deim_dfine/deim_dfine_n_coco")
    assert web.count(ADDRESS) == 1, (
        "resuming, evaluation, fine-tuning and prediction load the backbone from the checkpoint"
    )


def test_train_command_downloads_the_backbone(
    shapes: Path, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in web.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    arguments = [*SMALL, *data_overrides(shapes), f"train.output_dir={tmp_path}/run", "train.max_iter=1"]
    done = tool("train_net.py", "--config-file", RECIPE, *arguments, "model.backbone.weights=imagenet",
                launcher=("-u",))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"Downloading {ADDRESS} to {tmp_path}" in done.stdout
    assert "Loaded the backbone from" in done.stdout


def test_failed_download_ends_the_run_before_training(shapes: Path, tmp_path: Path, web: Web) -> None:
    web.files.clear()
    cfg = settings(shapes, tmp_path / "run", "model.backbone.weights=imagenet")
    cfg.dataloader.train.dataset.json_file = "read only after the weights are there"
    with pytest.raises(CheckpointError, match=r"cannot be downloaded.* save it as .*model\.backbone\.weights=''"):
        train(cfg)


def test_weights_that_have_to_be_requested(
    shapes: Path, tmp_path: Path, web: Web, caplog: pytest.LogCaptureFixture
) -> None:
    """Meta sends DINOv3's weights after a request. The error says how, before the model is built."""
    cfg = load_config("deimv2/deimv2_dinov3_l_coco", data_overrides(shapes))
    cfg.train.output_dir, cfg.model.encoder.hidden_dim = str(tmp_path / "run"), "read only after the weights are there"
    file = "dinov3_vits16_pretrain_lvd1689m-08c60483.pth"
    with pytest.raises(CheckpointError, match="'dinov3' of dinov3_vits16 are not downloaded automatically") as error:
        train(cfg)
    page = "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/"
    for part in (
        "DINOv3 license",
        page,
        f"save the file as {tmp_path / 'cache/deim' / file}",
        "model.backbone.weights=PATH",
    ):
        assert part.casefold() in str(error.value).casefold()
    assert not web.requests
    vit = randomize(build_vit("dinov3_vits16"))
    (tmp_path / "cache/deim").mkdir(parents=True)
    torch.save(vit.state_dict() | dinov3.constants(vit) | dinov3.unused(vit), tmp_path / "cache/deim" / file)
    with caplog.at_level(logging.INFO):
        adapter = SpatialTuningAdapter("dinov3_vits16", [5, 8, 11], weights="dinov3")
    assert f"Loaded the backbone from {tmp_path / 'cache/deim' / file}" in caplog.text
    assert all(torch.equal(value, vit.state_dict()[name]) for name, value in adapter.vit.state_dict().items())


def test_random_backbone_is_logged_and_unfrozen(shapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frozen = ["model.backbone.freeze_at=1", "model.backbone.freeze_norm=true"]
    with caplog.at_level(logging.INFO):
        train(settings(shapes, tmp_path, *frozen, "optimizer.lr=1e-3", "optimizer.params.rules.backbone.lr=1e-3"))
    assert "The run has no pretrained weights" in caplog.text
    assert "so freezing is disabled" in caplog.text
    weights = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    assert weights["backbone.stem.stem1.norm.num_batches_tracked"] == 1
    # The backbone of the resumed run is unfrozen, too.
    caplog.clear()
    train(settings(shapes, tmp_path, *frozen, "train.max_iter=2"), resume_run=True)
    weights = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    assert weights["backbone.stem.stem1.norm.num_batches_tracked"] == 2


# DEIMv2 and ECDet freeze no layers.
@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"deimv2", "ecdet"}))
def test_unfrozen_backbone_has_the_same_output(family: str) -> None:
    overrides = {"deformable": ("norm=FrozenBN", "freeze_at=2")}.get(family, ("freeze_at=2",))
    if "dfine" in family or "rtdetr" in family:
        overrides = ("freeze_at=1", "freeze_norm=true")
    cfg = recipe(FAMILIES[family], *(f"model.backbone.{text}" for text in overrides))
    model = build(cfg, "model").double().eval()
    assert any(not parameter.requires_grad for parameter in model.backbone.parameters())
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    before = model.backbone(images)
    unfreeze_random_backbone(cfg, model)
    assert all(parameter.requires_grad for parameter in model.backbone.parameters())
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in model.modules())
    for name, feature in model.double().eval().backbone(images).items():
        torch.testing.assert_close(feature, before[name])


def test_pretrained_backbone_stays_frozen() -> None:
    cfg = load_config("dfine/dfine_l_coco")
    model = build(cfg, "model")
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    unfreeze_random_backbone(cfg, model)
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == frozen != []


@pytest.mark.parametrize("name", [name for name in available() if not name.startswith(BUILT_ON_DETREX)])
def test_recipes_use_a_published_backbone_and_its_normalization(name: str, caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_config(name)
    if name.endswith("_shapes"):
        assert starts_from_random_weights(cfg), "the quick start trains this recipe offline"
        return
    node = cfg.model.backbone
    builder = node._target_ if isinstance(node._target_, str) else node._target_.__name__
    builder = builder.rpartition(".")[2]
    published = pretrained.find(builder, node[pretrained.descriptions()[builder].size_argument], node.weights)
    others = {"swin_large": "imagenet22k", "dinov3": "dinov3", "ecdet": "ecdet", "ecseg": "ecseg", "ecpose": "ecpose"}
    assert published.data == next((data for part, data in others.items() if part in name), "imagenet")
    check_pixel_normalization(cfg)
    assert not caplog.records


@pytest.mark.skipif(is_standalone("detrex"), reason="needs the real detrex")
@pytest.mark.parametrize("name", [name for name in available() if name.startswith(BUILT_ON_DETREX)])
def test_recipes_with_detrex_models_use_the_weights_of_detrex(name: str, caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_config(name)
    assert cfg.train.init_checkpoint == "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
    check_pixel_normalization(cfg)
    assert not caplog.records


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["+model.pixel_mean=[123.675,116.28,103.53]"], r"imagenet expects .*pixel_mean=\[0\.0, 0\.0, 0\.0\]"),
        (["train.init_checkpoint=some/R-50.pkl"], r"R-50\.pkl expects .*pixel_mean=\[123\.675, 116\.28, 103\.53\]"),
    ],
)
def test_mismatched_pixel_normalization_causes_a_warning(
    overrides: list[str], expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_pixel_normalization(load_config("dfine/dfine_s_coco", overrides))
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.WARNING
    assert re.search(expected, caplog.text)


class Pyramid(Backbone):
    """Backbone of another library: the network of a classifier, with additional layers."""

    def __init__(self) -> None:
        super().__init__()
        stem = BasicStem(in_channels=3, out_channels=64, norm="FrozenBN")
        stage = ResNet.make_stage(BasicBlock, 2, in_channels=64, out_channels=64, stride_per_block=[1, 1], norm="BN")
        self.net = ResNet(stem, [stage], out_features=["res2"])
        self.extra = nn.Conv2d(64, 64, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.net(x)


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.encoder = Pyramid(), nn.Linear(2, 2)


def write_classifier(model: nn.Module, path: Path) -> dict[str, torch.Tensor]:
    """Write classifier weights with random values for the backbone network, and return these values."""
    state = {name: torch.rand(value.shape).to(value.dtype) for name, value in model.backbone.net.state_dict().items()}
    torch.save({"model": state | {"head.fc.weight": torch.zeros(10, 64)}}, path)
    return state


def initial_state_from(path: Path):
    cfg = recipe("deim_dfine_n_shapes", f"train.init_checkpoint={path}")
    return find_initial_state(cfg, resume_run=False)


def test_foreign_backbone_is_loaded_from_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Detector()
    state = write_classifier(model, tmp_path / "classifier.pth")
    with caplog.at_level(logging.INFO):
        load_initial_weights(initial_state_from(tmp_path / "classifier.pth"), model, classes=None)
    assert all(torch.equal(model.backbone.net.state_dict()[name], value) for name, value in state.items())
    assert "classifier.pth is a backbone checkpoint" in caplog.text
    assert "unused: head.fc.weight; newly initialized: extra.weight, extra.bias" in caplog.text


def test_detector_checkpoint_is_never_loaded_in_part(tmp_path: Path) -> None:
    model = Detector()
    state = {f"backbone.{name}": value for name, value in model.backbone.state_dict().items()}
    torch.save(state | {"encoder.weight": torch.zeros(3, 3)}, tmp_path / "detector.pth")
    with pytest.raises(CheckpointError, match=r"(?s)does not fit the model.*encoder\.weight is \(3, 3\) in the file"):
        load_initial_weights(initial_state_from(tmp_path / "detector.pth"), model, classes=None)


@pytest.mark.parametrize("change", ["another width", "deeper"])
def test_checkpoint_of_another_backbone_is_an_error(change: str, tmp_path: Path) -> None:
    model = Detector()
    state = write_classifier(model, tmp_path / "classifier.pth")
    if change == "deeper":
        state |= {"res2.2.conv1.weight": torch.zeros(64, 64, 3, 3)}
    else:
        state["res2.0.conv1.weight"] = torch.zeros(32, 64, 3, 3)
    torch.save({"model": state}, tmp_path / "other.pth")
    message = (
        "belongs to a deeper model" if change == "deeper" else "does not fit this Pyramid: 1 of the backbone's tensors"
    )
    with pytest.raises(CheckpointError, match=message):
        load_initial_weights(initial_state_from(tmp_path / "other.pth"), model, classes=None)


def test_deeper_resnet_checkpoint_is_an_error(tmp_path: Path) -> None:
    """The file contains every tensor of the shallower model, with the same shape."""
    torch.save(PResNet(101).state_dict(), tmp_path / "r101.pth")
    with pytest.raises(CheckpointError, match=r"(?s)belongs to a deeper model than this PResNet.*res_layers.#"):
        load_backbone_weights(PResNet(50), str(tmp_path / "r101.pth"))


def test_missing_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"train\.init_checkpoint=.*nowhere\.pth does not exist"):
        initial_state_from(tmp_path / "nowhere.pth")


def test_backbone_is_pretrained_with_a_foreign_trainer(web: Web, backbone: nn.Module) -> None:
    """A foreign trainer only instantiates the config."""
    cfg = recipe("deim_dfine_n_shapes")
    cfg.model.backbone.weights = "imagenet"
    built = L(HGNetV2)(**{k: v for k, v in cfg.model.backbone.items() if k != "_target_"})
    weight = instantiate(built).stem.stem1.conv.weight
    assert torch.equal(weight, backbone.state_dict()["stem.stem1.conv.weight"])
