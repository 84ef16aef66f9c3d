"""ECPose at reduced size (the recipe for ``deim_shapes``)."""

import copy
from unittest import mock

import pytest
import torch
from detectron2.config import instantiate
from torch import nn

from deim.errors import DatasetError
from deim.inference import deployment_form
from tests.models import batch, randomize, recipe


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    """A model with few queries. Tests copy it before they change it."""
    torch.manual_seed(0)
    return instantiate(recipe("ecpose_s_shapes", "model.decoder.queries.num_queries=20").model)


def test_losses_of_a_training_step(detector: nn.Module) -> None:
    """All losses have a gradient with respect to all parameters, without objects as well."""
    model = copy.deepcopy(detector).train()
    suffixes = ["", "_0", "_pre", "_enc_0", "_dn_0", "_dn_1", "_dn_pre"]
    for counts in ([2, 1], [0, 0]):
        losses = model(batch(counts, num_keypoints=5))
        assert set(losses) == {f"loss_{name}{s}" for name in ("vfl", "keypoints", "oks") for s in suffixes}
        sum(losses.values(), torch.zeros(())).backward()
        trained = [p for p in model.parameters() if p.requires_grad]
        assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


def test_areas_of_the_annotations_are_used(detector: nn.Module) -> None:
    model, samples, targets = copy.deepcopy(detector).train(), batch([2, 1], num_keypoints=5), []
    with mock.patch.object(model.criterion, "forward", lambda groups, t, denoising: targets.append(t)):
        model(samples)
        for sample in samples:
            # NumPy computes in float64. The losses need the precision of the boxes.
            sample["instances"].gt_areas = sample["instances"].gt_boxes.area().double() / 2
        model(samples)
    assert targets[0].areas is None
    torch.testing.assert_close(targets[1].areas, targets[0].object_areas / 2)


def test_samples_without_keypoints_are_rejected(detector: nn.Module) -> None:
    with pytest.raises(DatasetError, match=r"mapper\.keypoints=True and use a dataset with annotated keypoints$"):
        copy.deepcopy(detector).train()(batch([1]))


@torch.no_grad()
def test_detections_have_keypoints_and_their_boxes(detector: nn.Module) -> None:
    model = randomize(copy.deepcopy(detector)).eval()
    samples = batch([1, 1], size=96)
    for ours, theirs in zip(model(samples), deployment_form(model)(samples), strict=True):
        instances, deployed = ours["instances"], theirs["instances"]
        assert instances.pred_keypoints.shape == (100, 5, 3)
        points = instances.pred_keypoints[..., :2]
        edges = torch.cat([points.amin(dim=1), points.amax(dim=1)], dim=-1).clamp(0, 96)
        torch.testing.assert_close(instances.pred_boxes.tensor, edges, rtol=1e-4, atol=1e-3)
        assert torch.equal(instances.pred_keypoints[..., 2], instances.scores[:, None].expand(-1, 5))
        torch.testing.assert_close(deployed.scores, instances.scores, rtol=1e-4, atol=1e-5)
