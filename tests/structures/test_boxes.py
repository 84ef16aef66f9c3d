"""IoU and GIoU of boxes."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deim.structures.boxes import iou, iou_and_giou, pairwise_giou, pairwise_iou


def random_boxes(seed: int, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner, side = torch.rand(2, count, 2, generator=generator, dtype=torch.float64).unbind()
    return torch.cat([corner, corner + side + 1e-3], dim=1)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31))
def test_iou_equals_pixel_counting(seed: int) -> None:
    boxes = (random_boxes(seed, 2) * 20).round()
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    y, x = torch.meshgrid(torch.arange(45) + 0.5, torch.arange(45) + 0.5, indexing="ij")
    masks = [(x > b[0]) & (x < b[2]) & (y > b[1]) & (y < b[3]) for b in boxes]
    hull = torch.cat([boxes[:, :2].amin(0), boxes[:, 2:].amax(0)])
    hull_area = float((hull[2] - hull[0]) * (hull[3] - hull[1]))
    shared, union = float((masks[0] & masks[1]).sum()), float((masks[0] | masks[1]).sum())
    assert abs(float(iou(*boxes)) - shared / union) < 1e-9
    overlap, generalized = iou_and_giou(*boxes)
    assert overlap == iou(*boxes)
    assert abs(float(generalized) - (shared / union - (hull_area - union) / hull_area)) < 1e-9


def test_boxes_broadcast_to_all_pairs() -> None:
    a, b = random_boxes(0, 3), random_boxes(1, 4)
    actual = [*iou_and_giou(a[:, None], b), pairwise_iou(a, b), pairwise_giou(a, b)]
    for pairwise, single in zip(actual, (0, 1, 0, 1), strict=True):
        assert pairwise.shape == (3, 4)
        for i in range(3):
            for j in range(4):
                assert pairwise[i, j] == iou_and_giou(a[i], b[j])[single]
    many = torch.stack([a, a + 1])
    for function in (pairwise_iou, pairwise_giou):
        torch.testing.assert_close(function(many, b[None])[1], function(a + 1, b))


def test_empty_boxes_give_finite_values_and_gradients() -> None:
    point = torch.zeros(1, 4, requires_grad=True)
    for function in (iou, lambda a, b: iou_and_giou(a, b)[1], pairwise_iou, pairwise_giou):
        value = function(point, torch.zeros(1, 4))
        assert torch.isfinite(value).all()
        (gradient,) = torch.autograd.grad(value.sum(), point)
        assert torch.isfinite(gradient).all()
