"""The detector: detectron2's interface, padding, deployment, images without objects."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from deim.inference import to_deployment
from deim.structures.predictions import Predictions
from tests.conftest import long_except, needs_utf8
from tests.models import (
    COMPILERS,
    FAMILIES,
    REAL_TIME,
    TASKS,
    batch,
    compile_without_graph_breaks,
    randomize,
    recipe,
    task_model,
    tiny_model,
)

LOSSES = {
    "dfine": {"loss_mal", "loss_bbox_aux_0", "loss_giou_pre", "loss_fgl_dn_1", "loss_ddf_aux_1", "loss_mal_enc_0"},
    "deimv2": {"loss_mal", "loss_bbox_aux_0", "loss_giou_pre", "loss_fgl_dn_1", "loss_ddf_aux_1", "loss_mal_enc_0"},
    "ecdet": {"loss_mal", "loss_bbox_aux_0", "loss_giou_pre", "loss_fgl_dn_1", "loss_ddf_aux_1", "loss_mal_enc_0"},
    "deimv2_lite": {"loss_mal", "loss_bbox_aux_0", "loss_giou_pre", "loss_bbox_dn_pre", "loss_mal_enc_0"},
    "rtdetr": {"loss_mal", "loss_bbox_aux_0", "loss_giou_dn_2", "loss_bbox_enc_0", "loss_giou"},
    "deformable": {"loss_focal", "loss_bbox_aux_1", "loss_giou_enc", "loss_focal_enc", "loss_giou"},
    "hybrid": {"loss_focal", "loss_bbox_enc", "loss_focal_o2m_0", "loss_bbox_o2m", "loss_giou_o2m_1"},
    "dn": {"loss_focal", "loss_bbox_aux_0", "loss_focal_dn_0", "loss_bbox_dn_1", "loss_giou_dn_2"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_training_returns_named_finite_losses_and_gradients_everywhere(family: str) -> None:
    model = tiny_model(family=family)
    losses = model(batch([2, 3]))
    assert LOSSES[family] <= set(losses)
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("counts", [[0, 2], [0, 0]], ids=str)
def test_images_without_objects_train_on_the_same_graph(family: str, counts: list[int]) -> None:
    model = tiny_model(family=family)
    losses = model(batch(counts))
    assert set(losses) == set(model(batch([2, 2])))
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("family", FAMILIES)
def test_inference_returns_sorted_instances_at_the_original_size(family: str) -> None:
    model = tiny_model(family=family).eval()
    samples = batch([1, 1])
    samples[0].update(height=128, width=32)
    with torch.no_grad():
        results = model(samples)
    first = results[0]["instances"]
    assert first.image_size == (128, 32)
    assert results[1]["instances"].image_size == (64, 64)
    assert (first.scores.diff() <= 0).all()
    assert first.pred_classes.dtype == torch.int64
    assert (first.pred_boxes.tensor >= 0).all()
    assert (first.pred_boxes.tensor[:, 2] <= 32).all()
    assert (first.pred_boxes.tensor[:, 3] <= 128).all()


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_boxes_scale_with_the_requested_size(family: str) -> None:
    model = randomize(tiny_model(family=family)).eval()
    sample = batch([1])[0]
    small = model([{**sample, "height": 64, "width": 64}])[0]["instances"].pred_boxes.tensor
    large = model([{**sample, "height": 128, "width": 192}])[0]["instances"].pred_boxes.tensor
    torch.testing.assert_close(large, small * torch.tensor([3.0, 2, 3, 2]), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_images_of_different_sizes_are_padded_and_masked(family: str) -> None:
    model = randomize(tiny_model(family=family)).eval()
    samples = batch([1, 1], size=96)
    samples[1]["image"] = samples[1]["image"][:, :64, :64]
    results = model(samples)
    assert results[1]["instances"].image_size == (64, 64)
    _, padding = model._batch([s["image"] for s in samples])
    assert padding is not None
    assert not padding[0].any()
    assert padding[1, 64:].all()


class WholeImage(nn.Module):
    """Decoder that predicts one box of the size of the image."""

    def forward(self, encoded: object, targets: object, padding: Tensor | None):
        count = len(padding) if padding is not None else 1
        boxes = torch.tensor([0.5, 0.5, 1.0, 1.0]).expand(1, count, 1, 4)
        return {"main": Predictions(torch.zeros(1, count, 1, 6), boxes)}, None


@torch.no_grad()
def test_detections_are_relative_to_the_unpadded_image() -> None:
    model = tiny_model().eval()
    model.decoder = WholeImage()
    samples = batch([1, 1, 1], size=96)
    samples[1]["image"] = samples[1]["image"][:, :40, :64]
    samples[2] = {**samples[2], "image": samples[2]["image"][:, :64, :40], "height": 640, "width": 400}
    results = [result["instances"] for result in model(samples)]
    assert [actual.image_size for actual in results] == [(96, 96), (40, 64), (640, 400)]
    boxes = [actual.pred_boxes.tensor[0].tolist() for actual in results]
    assert boxes == [[0, 0, 96, 96], [0, 0, 64, 40], [0, 0, 400, 640]]


def test_targets_are_relative_to_the_unpadded_image() -> None:
    model = tiny_model()
    samples = batch([1, 1], size=96)
    samples[1]["image"] = samples[1]["image"][:, :64, :32]
    samples[1]["instances"] = Instances((64, 32), gt_boxes=Boxes([[0, 0, 32, 16]]), gt_classes=torch.tensor([0]))
    images, _ = model._batch([sample["image"] for sample in samples])
    targets = model._targets(samples, images.image_sizes, (96, 96))
    assert targets.boxes[1, 0].tolist() == [0.5, 0.125, 1.0, 0.25]


@pytest.mark.parametrize("family", FAMILIES)
def test_different_sizes_train(family: str) -> None:
    model = tiny_model(family=family)
    samples = batch([2, 2], size=96)
    samples[1]["image"] = samples[1]["image"][:, :80, :]
    assert torch.isfinite(sum(model(samples).values()))


@pytest.mark.parametrize(
    "name",
    [
        "deim_dfine_n_shapes",
        "dfine_n_coco",
        "rtdetrv2_r18vd_120e_coco",
        "deformable_detr_r50_two_stage_50ep_coco",
        "deimv2_dinov3_s_shapes",
        "deimv2_hgnetv2_atto_shapes",
        "ecdet_s_coco",
    ],
)
@pytest.mark.usefixtures("double_precision")
@torch.no_grad()
def test_deployment_keeps_the_predictions(name: str) -> None:
    torch.manual_seed(0)
    model = randomize(instantiate(recipe(name, "model.decoder.queries.num_queries=20").model)).eval()
    deployed = to_deployment(model)
    assert not [n for n, m in deployed.named_modules() if "BatchNorm" in type(m).__name__]
    samples = batch([1, 1], size=128)
    for before, after in zip(model(samples), deployed(samples), strict=True):
        expected, actual = before["instances"], after["instances"]
        torch.testing.assert_close(actual.scores, expected.scores, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(actual.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-3, rtol=1e-9)
        assert torch.equal(actual.pred_classes, expected.pred_classes)


@pytest.mark.parametrize("name", ["deim_dfine_n_shapes", "dfine_n_coco", "rtdetrv2_r18vd_120e_coco"])
@pytest.mark.usefixtures("double_precision")
@torch.no_grad()
def test_deployment_keeps_encoder_and_decoder_outputs(name: str) -> None:
    torch.manual_seed(0)
    model = randomize(instantiate(recipe(name).model)).eval()
    deployed = to_deployment(model)
    assert sum(p.numel() for p in deployed.parameters()) < sum(p.numel() for p in model.parameters())
    images = torch.rand(2, 3, 256, 256)
    maps, deployed_maps = (m.encoder(m.backbone(images)) for m in (model, deployed))
    torch.testing.assert_close(deployed_maps, maps, atol=1e-9, rtol=1e-9)
    expected, _ = model.decoder(maps)
    actual, _ = deployed.decoder(maps)
    torch.testing.assert_close(actual["main"].logits, expected["main"].logits, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(actual["main"].boxes, expected["main"].boxes, atol=1e-9, rtol=1e-9)


@torch.no_grad()
@needs_utf8
@pytest.mark.parametrize("amp", long_except([False], [False, True]))
@pytest.mark.parametrize("family", REAL_TIME)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_deployment_can_be_compiled(family: str, compiler: str, amp: bool) -> None:
    model = randomize(tiny_model(family=family)).eval()
    mixed = torch.autocast("cpu", torch.bfloat16, enabled=amp)
    with mixed:
        (expected,) = model(batch([1]))
    with compile_without_graph_breaks(compiler), mixed:
        (actual,) = to_deployment(model, compile=True)(batch([1]))
    tolerance = 3e-2 if amp else 1e-4
    torch.testing.assert_close(actual["instances"].scores, expected["instances"].scores, atol=tolerance, rtol=1e-3)


@torch.no_grad()
@needs_utf8
@pytest.mark.parametrize("task", long_except(["masks"], TASKS))
def test_deployment_with_masks_or_keypoints_can_be_compiled(task: str) -> None:
    model = randomize(task_model(task)).eval()
    (expected,) = model(batch([1]))
    with compile_without_graph_breaks("aot_eager"):
        (actual,) = to_deployment(model, compile=True)(batch([1]))
    for name, value in expected["instances"].get_fields().items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            torch.testing.assert_close(actual["instances"].get(name), value, atol=1e-3, rtol=1e-3)


def test_deployment_leaves_the_original_trainable() -> None:
    model = tiny_model()
    to_deployment(model)
    assert model.criterion is not None
    assert torch.isfinite(sum(model(batch([1])).values()))


@pytest.mark.parametrize("family", FAMILIES)
def test_later_layers_train_but_do_not_evaluate(family: str) -> None:
    model = tiny_model("model.decoder.eval_layer=0", family=family)
    losses = model(batch([2, 1]))
    assert "loss_bbox_aux_1" in losses
    sum(losses.values()).backward()
    assert model.decoder.layers[2].norm3.weight.grad is not None
    model = randomize(model).eval()
    deployed = to_deployment(model)
    assert len(deployed.decoder.layers) == len(deployed.decoder.refinement.score_heads) == 1
    with torch.no_grad():
        full, small = (m(batch([1]))[0]["instances"] for m in (model, deployed))
    torch.testing.assert_close(small.scores, full.scores, atol=1e-4, rtol=1e-3)


def test_box_head_gets_gradients_from_the_next_layer() -> None:
    """Without look forward twice, the previous box head gets no gradient from the loss of the last layer."""
    model = tiny_model(family="rtdetr")
    losses = model(batch([3, 2]))
    (losses["loss_bbox"] + losses["loss_giou"]).backward()
    reached = [bool(head.layers[-1].weight.grad.abs().sum() > 0) for head in model.decoder.refinement.bbox_heads]
    assert reached == [False, True, True], "from the next layer, not from all later ones"


def test_training_without_criterion_is_rejected() -> None:
    model = tiny_model()
    model.criterion = None
    with pytest.raises(RuntimeError, match="no criterion"):
        model(batch([1]))


@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_precision_losses_are_float32(family: str) -> None:
    model = tiny_model(family=family)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(batch([2, 1]))
    assert {v.dtype for v in losses.values()} == {torch.float32}
    assert torch.isfinite(sum(losses.values()))
