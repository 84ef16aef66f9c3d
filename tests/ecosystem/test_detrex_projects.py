"""``with_deim_criterion`` on each detrex project: every loss equals that of the model's original criterion."""

import sys
from typing import Any

import pytest
import torch
from detectron2.config import instantiate

from deim import model_zoo
from deim.config import get_detrex_config, with_deim_criterion
from deim.config.detrex import proposals_are_class_agnostic
from deim.errors import ConfigError
from deim.fallback import is_standalone
from deim.modeling.losses import MatchabilityAwareLoss
from tests.models import batch

pytestmark = pytest.mark.skipif(is_standalone("detrex"), reason="needs the real detrex")

# {project: one of its configs}
PROJECTS = {
    "anchor_detr": "anchor_detr/configs/anchor_detr_r50_50ep.py",
    "conditional_detr": "conditional_detr/configs/conditional_detr_r50_50ep.py",
    "dab_detr": "dab_detr/configs/dab_detr_r50_50ep.py",
    "dab_deformable_detr": "dab_deformable_detr/configs/dab_deformable_detr_r50_50ep.py",
    "dab_deformable_detr, two stages": "dab_deformable_detr/configs/dab_deformable_detr_r50_two_stage_50ep.py",
    "deformable_detr": "deformable_detr/configs/deformable_detr_r50_50ep.py",
    "deformable_detr, two stages": "deformable_detr/configs/deformable_detr_r50_two_stage_50ep.py",
    "deta": "deta/configs/improved_deformable_detr_baseline_50ep.py",
    "deta, assigners": "deta/configs/deta_r50_5scale_12ep.py",
    "dino": "dino/configs/dino-resnet/dino_r50_4scale_12ep.py",
    "dn_detr": "dn_detr/configs/dn_detr_r50_50ep.py",
    "dn_deformable_detr": "dn_deformable_detr/configs/dn_deformable_detr_r50_50ep.py",
    "focus_detr": "focus_detr/configs/focus_detr_resnet/focus_detr_r50_4scale_12ep.py",
    "group_detr": "group_detr/configs/group_detr_r50_50ep.py",
    "h_deformable_detr": "h_deformable_detr/configs/h_deformable_detr_r50_two_stage_12ep.py",
    "sqr_detr": "sqr_detr/configs/dab_detr_r50_50ep_sqr.py",
    "align_detr": "align_detr/configs/aligndetr_k=2_r50_4scale_12ep.py",
}
WITH_PROPOSALS = {
    "dab_deformable_detr, two stages",
    "deformable_detr, two stages",
    "deta",
    "dino",
    "focus_detr",
    "h_deformable_detr",
}
WITH_DENOISING = {"dino", "dn_detr", "dn_deformable_detr", "focus_detr"}
# The original criteria of these match several queries to an object, or train scores towards a mix of score and IoU.
OTHER_LOSSES = ("deta, assigners", "align_detr")


class Recorder(torch.nn.Module):
    """A stand-in for a criterion that records its arguments."""

    def __init__(self, criterion: torch.nn.Module):
        super().__init__()
        self.criterion, self.calls = criterion, []
        self.weight_dict = criterion.weight_dict

    def forward(self, *inputs: Any, **named: Any) -> dict:
        self.calls.append((inputs, named))
        return {name: value.clone() for name, value in self.criterion(*inputs, **named).items()}


def to_float64(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().double() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: to_float64(entry) for key, entry in value.items()}
    return type(value)(map(to_float64, value)) if isinstance(value, list | tuple) else value


def small_model(name: str) -> Any:
    """Return the model of a project, with few queries."""
    model = get_detrex_config(PROJECTS[name]).model
    model.device = "cpu"
    if "dn_number" in model:
        model.dn_number = 10
    if "num_queries_one2one" in model:
        model.num_queries_one2one, model.num_queries_one2many = 20, 30
        model.transformer.two_stage_num_proposals = 50
    elif "num_queries" in model:
        model.num_queries = 22 if name == "group_detr" else 20
    return model


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable ``.cuda()`` and ``.to("cuda")``, which these projects call regardless of the device of the model."""
    to = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self, *args, **kwargs: self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *a, **k: self if a and a[0] == "cuda" else to(self, *a, **k))


def without_epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use torchvision's IoU: detrex adds 1e-6 to the divisor, which is significant for boxes with an area of 1e-3."""
    from detrex.layers import generalized_box_iou
    from torchvision.ops import generalized_box_iou as exact

    for module in list(sys.modules.values()):
        if getattr(module, "generalized_box_iou", None) is generalized_box_iou:
            monkeypatch.setattr(module, "generalized_box_iou", exact)


@pytest.mark.parametrize("name", [name for name in PROJECTS if name not in OTHER_LOSSES])
def test_losses_equal_those_of_original_criterion(name: str, no_cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Includes the losses of proposals, denoising queries, the one-to-many branch and all layers."""
    cfg = small_model(name)
    torch.manual_seed(0)
    model = instantiate(cfg).train()
    recorder = Recorder(model.criterion)
    model.criterion = recorder
    size = 512 if name == "focus_detr" else 256  # it selects at least 300 tokens per level
    model([{**sample, "height": size, "width": size} for sample in batch([3, 0, 1], size=size, classes=80)])
    criterion = instantiate(with_deim_criterion(cfg, "focal").criterion)
    without_epsilon(monkeypatch)
    compared: set[str] = set()
    for inputs, named in recorder.calls:
        expected = recorder.criterion.double()(*to_float64(inputs), **to_float64(named))
        losses = criterion(*to_float64(inputs), **to_float64(named))
        expected.pop("select_loss", None)  # Focus-DETR also trains a foreground mask
        assert set(losses) == set(expected)
        for loss, value in expected.items():
            assert float(losses[loss]) == pytest.approx(float(value), rel=1e-9, abs=1e-12), loss
            compared.add(loss)
    assert any("_enc" in loss for loss in compared) == (name in WITH_PROPOSALS)
    assert any("_dn" in loss for loss in compared) == (name in WITH_DENOISING)
    assert {"loss_class", "loss_class_0", "loss_giou_4"} <= compared


@pytest.mark.parametrize("name", ["detr/configs/detr_r50_300ep.py", "pnp_detr/configs/pnp_detr_r50_300ep.py"])
def test_models_with_no_object_class_are_errors(name: str) -> None:
    with pytest.raises(ConfigError, match="with a softmax over the classes and a no-object class"):
        with_deim_criterion(get_detrex_config(name).model)


def test_unknown_criterion_requires_class_agnostic_option() -> None:
    model = small_model("deformable_detr, two stages")
    model.criterion["_target_"] = _UnknownCriterion
    with pytest.raises(ConfigError, match="pass class_agnostic_proposals=True or False"):
        with_deim_criterion(model)
    assert with_deim_criterion(model, class_agnostic_proposals=True).criterion.two_stage_binary_cls is True


class _UnknownCriterion(torch.nn.Module):
    """A criterion with an additional required argument."""

    def __init__(self, num_classes: int, **options: Any):
        super().__init__()
        self.num_classes = num_classes

    def get_loss(self, *args: Any) -> dict:
        return {}

    def forward(self, outputs: dict, targets: list) -> dict:
        return {"loss": outputs["something"]}


CLASS_AGNOSTIC = {"deformable_detr", "deformable_detr, two stages", "h_deformable_detr", "deta", "deta, assigners"}


@pytest.mark.parametrize("name", PROJECTS)
def test_class_agnostic_proposals_are_detected(name: str) -> None:
    assert proposals_are_class_agnostic(small_model(name)) == (name in CLASS_AGNOSTIC)


@pytest.mark.parametrize(
    "name", ["dino_deim/deim_dino_r50_4scale_12ep_coco", "dab_detr_deim/deim_dab_detr_r50_50ep_coco"]
)
def test_detrex_models_train_with_deim_criterion(name: str) -> None:
    cfg = model_zoo.get_config(name)
    cfg.model.device = "cpu"
    if "dn_number" in cfg.model:
        cfg.model.dn_number = 0  # DINO creates denoising queries only on a GPU
        cfg.model.num_queries = 50
    torch.manual_seed(0)
    model = instantiate(cfg.model).train()
    cfg.optimizer.params.model = model
    cfg.optimizer.lr = 1e-4
    optimizer = instantiate(cfg.optimizer)
    samples = [{**sample, "height": 128, "width": 128} for sample in batch([3, 1], size=128, classes=80)]
    losses = []
    for _ in range(3):
        terms = model(samples)
        assert set(terms) <= set(model.criterion.weight_dict)
        losses.append(sum(terms.values()))
        optimizer.zero_grad()
        losses[-1].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    assert losses[-1] < losses[0]


def test_with_deim_criterion_on_group_detr() -> None:
    cfg = get_detrex_config("group_detr/configs/group_detr_r50_50ep.py")
    criterion = instantiate(with_deim_criterion(cfg.model).criterion)
    assert criterion.group_nums == cfg.model.group_nums
    losses = criterion.criterion.losses
    assert isinstance(losses["loss_class"], MatchabilityAwareLoss)
    assert {name: loss.weight for name, loss in losses.items()} == {
        "loss_class": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0
    }  # fmt: skip
