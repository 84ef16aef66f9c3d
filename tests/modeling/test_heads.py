"""Heads for masks and keypoints in all families."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints

from deim.config import is_on, load_config, switch, with_keypoints
from deim.errors import DatasetError
from deim.inference import to_deployment
from tests.conftest import long_except
from tests.models import FAMILIES, batch, randomize, recipe

TINY = ("model.decoder.queries.num_queries=20", "model.decoder.num_layers=2", "model.num_detections=10")
NUM_KEYPOINTS = 5


def model_with_heads(family: str) -> torch.nn.Module:
    cfg = switch(recipe(FAMILIES[family], *TINY), masks=True)
    with_keypoints(cfg.model, NUM_KEYPOINTS)
    assert is_on(cfg, "masks")
    assert is_on(cfg, "keypoints")
    torch.manual_seed(0)
    return instantiate(cfg.model)


@pytest.mark.parametrize("family", long_except(["dfine", "deformable", "deimv2_lite"], FAMILIES))
def test_heads_train_and_predict(family: str) -> None:
    model = model_with_heads(family)
    for counts in ([2, 0, 1], [0, 0]):
        losses = model(batch(counts, masks=True, num_keypoints=NUM_KEYPOINTS))
        assert {"loss_mask_ce", "loss_mask_dice", "loss_keypoints", "loss_oks", "loss_mask_ce_aux_0"} <= set(losses)
        model.zero_grad()
        sum(losses.values()).backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    randomize(model)
    samples = [{**batch([0], size=96)[0], "height": 48, "width": 100}, *batch([0])]
    with torch.no_grad():
        results = [result["instances"] for result in model.eval()(samples)]
        assert [result.pred_masks.shape for result in results] == [(10, 48, 100), (10, 64, 64)]
        assert [result.pred_keypoints.shape for result in results] == [(10, NUM_KEYPOINTS, 3)] * 2
        assert torch.equal(results[0].pred_keypoints[..., 2], results[0].scores[:, None].expand(-1, NUM_KEYPOINTS))
        deployed = [result["instances"] for result in to_deployment(model)(samples)]
    for actual, expected in zip(deployed, results, strict=True):
        torch.testing.assert_close(actual.pred_keypoints, expected.pred_keypoints, atol=1e-2, rtol=1e-3)
        assert (actual.pred_masks != expected.pred_masks).float().mean() < 1e-2


# Recipe with masks on COCO -> overrides that reduce its size.
COCO_RECIPES = {
    "deformable_detr_r50_two_stage_masks_50ep_coco": (
        "model.backbone.depth=18",
        "model.encoder.num_layers=1",
        "model.encoder.dim_feedforward=64",
    ),
    **{f"deim_dfine_{size}_masks_coco": () for size in "nsmlx"},
}


@pytest.mark.parametrize("name", long_except(list(COCO_RECIPES)[:2], COCO_RECIPES))
def test_coco_recipes_with_masks_train_and_predict(name: str) -> None:
    """The images have unequal sizes, so that the batch has padding."""
    cfg = recipe(name, *TINY, *COCO_RECIPES[name])
    assert is_on(cfg, "masks")
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    samples = [*batch([2], size=96, masks=True), *batch([0, 1], size=64, masks=True)]
    losses = model(samples)
    assert {"loss_mask_ce", "loss_mask_dice", "loss_mask_ce_aux_0"} <= set(losses)
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    randomize(model)
    samples = [{**samples[0], "height": 48, "width": 100}, samples[1]]
    with torch.no_grad():
        results = [result["instances"] for result in model.eval()(samples)]
        deployed = [result["instances"] for result in to_deployment(model)(samples)]
    assert [result.pred_masks.shape for result in results] == [(10, 48, 100), (10, 64, 64)]
    for actual, expected in zip(deployed, results, strict=True):
        torch.testing.assert_close(actual.scores, expected.scores, atol=1e-4, rtol=1e-4)
        assert (actual.pred_masks != expected.pred_masks).float().mean() < 1e-2


def test_targets_cover_the_padded_batch() -> None:
    """Masks are relative to the batch with its padding, keypoints to the image without padding."""
    model = model_with_heads("dfine")
    samples = batch([1, 2], size=96, masks=True, num_keypoints=NUM_KEYPOINTS)
    samples[0] = {"image": samples[0]["image"][:, :64, :32], "instances": Instances((64, 32))}
    samples[0]["instances"].gt_boxes = Boxes([[0, 0, 32, 16]])
    samples[0]["instances"].gt_classes = torch.tensor([0])
    samples[0]["instances"].gt_masks = BitMasks(torch.ones(1, 16, 8, dtype=torch.bool))
    samples[0]["instances"].gt_keypoints = Keypoints(torch.tensor([[[8.0, 48.0, 2.0]] * NUM_KEYPOINTS]))
    targets = model._targets(samples, [(64, 32), (96, 96)], (96, 96))
    assert targets.masks.shape == (2, 2, 24, 24)
    assert targets.masks[0, 0].nonzero().max(dim=0).values.tolist() == [15, 7]
    assert targets.masks[0, 1].sum() == 0, "padding of the objects"
    assert targets.keypoints[0, 0].tolist() == [[0.25, 0.75, 2.0]] * NUM_KEYPOINTS
    expected = samples[1]["instances"].gt_keypoints.tensor
    torch.testing.assert_close(targets.keypoints[1] * torch.tensor([96, 96, 1]), expected)


@torch.no_grad()
def test_masks_cover_the_batch_exactly() -> None:
    """DETRs pad batches only as masks require. A pixel of the masks then covers whole pixels of the batch."""
    model = model_with_heads("deformable").eval()
    images, padding = model._batch([torch.zeros(3, 75, 101), torch.zeros(3, 67, 90)])
    groups, _ = model.decoder(model.encode(images.tensor, padding), None, padding)
    height, width = groups["main"].masks.size
    batch_height, batch_width = images.tensor.shape[-2:]
    assert batch_height % height == batch_width % width == 0
    assert batch_height // height == batch_width // width
    assert batch_height < 75 + model.size_divisibility


def test_images_without_objects_may_lack_masks_and_keypoints() -> None:
    """The mappers of detectron2 add neither to such images."""
    model = model_with_heads("dfine")
    samples = batch([2, 0], masks=True, num_keypoints=NUM_KEYPOINTS)
    sizes = [(64, 64)] * 2
    expected = model._targets(samples, sizes, (64, 64))
    samples[1]["instances"].remove("gt_masks")
    samples[1]["instances"].remove("gt_keypoints")
    actual = model._targets(samples, sizes, (64, 64))
    assert torch.equal(actual.masks, expected.masks)
    assert torch.equal(actual.keypoints, expected.keypoints)
    targets = model._targets(samples[1:], sizes[1:], (64, 64))
    assert targets.masks.shape[:2] == (1, 0)
    assert targets.keypoints.shape == (1, 0, NUM_KEYPOINTS, 3)


@pytest.mark.parametrize("field", ["masks", "keypoints"])
def test_missing_ground_truth_is_an_error(field: str) -> None:
    cfg = switch(recipe("deim_dfine_n_shapes", *TINY), **{field: True})
    with pytest.raises(DatasetError, match=f"the model predicts {field}, but the training data has none"):
        instantiate(cfg.model)(batch([1]))


def test_another_number_of_keypoints_is_an_error() -> None:
    message = (
        "the model predicts 5 keypoints of an object, but the training data has 3: "
        r"set model\.decoder\.heads\.keypoints\.num_keypoints"
    )
    with pytest.raises(DatasetError, match=message):
        model_with_heads("dfine")(batch([1, 0], masks=True, num_keypoints=3))


def test_a_null_head_is_disabled() -> None:
    cfg = load_config(
        "projects/deim_dfine/configs/deim_dfine_n_shapes.py", [*TINY, "+model.decoder.heads={masks: null}"]
    )
    assert not is_on(cfg, "masks")
    assert len(instantiate(cfg.model).decoder.heads) == 0
