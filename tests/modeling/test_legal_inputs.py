"""Losses and gradients are finite for all valid ground truth, in every family and precision."""

import math
from collections.abc import Callable

import pytest
import torch
from detectron2.structures import Boxes, Instances
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deim.modeling.losses.functional import focal_loss, matchability_aware_loss, varifocal_loss
from tests.models import FAMILIES, batch, tiny_model

SIZE = 64


def objects(boxes: list[list[float]], classes: list[int] | None = None) -> Instances:
    labels = torch.tensor(classes if classes is not None else [0] * len(boxes), dtype=torch.int64)
    return Instances((SIZE, SIZE), gt_boxes=Boxes(torch.tensor(boxes).view(-1, 4)), gt_classes=labels)


def many(count: int) -> Instances:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(count, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 13], dim=1)
    return objects(boxes.tolist(), torch.randint(6, (count,), generator=generator).tolist())


LEGAL = {
    "none": objects([]),
    "one pixel": objects([[10, 10, 11, 11]]),
    "a pixel in the corner": objects([[SIZE - 1, SIZE - 1, SIZE, SIZE]]),
    "a line": objects([[0, 10, SIZE, 11]]),
    "as large as the image": objects([[0, 0, SIZE, SIZE]]),
    "the same twice": objects([[5, 5, 20, 20]] * 2),
    "the same in two classes": objects([[5, 5, 20, 20]] * 2, [1, 4]),
    "more than queries": many(60),
}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_finite(family: str, dtype: torch.dtype | None) -> None:
    """All cases in one batch, and each case in a batch with an image without objects."""
    model = tiny_model(family=family).train()
    kinds = list(LEGAL.values())
    for instances in [kinds] if dtype is not None else [kinds, *([kind, LEGAL["none"]] for kind in kinds)]:
        check_finite(model, instances, dtype)


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_thousands_of_objects(family: str) -> None:
    """Many more objects than queries; the denoising queries make this test slow."""
    check_finite(tiny_model(family=family).train(), [many(2000), LEGAL["none"]], None)


def check_finite(model: nn.Module, instances: list[Instances], dtype: torch.dtype | None) -> None:
    samples = [{**s, "instances": i} for s, i in zip(batch([0] * len(instances)), instances, strict=True)]
    model.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        losses = model(samples)
    assert all(value.isfinite() for value in losses.values()), losses
    if dtype is not torch.float16:  # float16 gradients are finite only with the loss scale of the trainer
        sum(losses.values()).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ["mal", "vfl", "focal"])
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=8),
    st.floats(0, 1, width=32),
    st.booleans(),
)
def test_extreme_logits(name: str, logits: list[float], quality: float, positive: bool) -> None:
    values = torch.tensor([logits]).requires_grad_()
    mask = torch.full((1, len(logits)), positive)
    overlap = torch.full((1, len(logits)), quality) * mask
    loss: Callable[..., Tensor] = {
        "mal": matchability_aware_loss,
        "vfl": varifocal_loss,
        "focal": lambda logits, positive, quality: focal_loss(logits, positive),
    }[name]
    total = loss(values, mask, overlap).sum()
    total.backward()
    assert math.isfinite(float(total))
    assert values.grad is not None
    assert values.grad.isfinite().all()
    assert float(total.detach()) >= 0
