"""The deformable-attention operator against sampling by hand, in float64, gradients included."""

import itertools
import math

import pytest
import torch

from deim.layers import MultiScaleDeformableAttention
from deim.layers.ops import BACKENDS, deform_attn_nearest, selected_backend

SHAPES, POINTS = [(4, 6), (2, 3)], [3, 2]


def bilinear(plane: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Sample a (D, h, w) map at pixel coordinates; zero outside."""
    depth, height, width = plane.shape
    total = plane.new_zeros(depth)
    for row in (math.floor(float(y)), math.floor(float(y)) + 1):
        for column in (math.floor(float(x)), math.floor(float(x)) + 1):
            if 0 <= row < height and 0 <= column < width:
                total = total + plane[:, row, column] * (1 - (x - column).abs()) * (1 - (y - row).abs())
    return total


def by_hand(value, locations, weights):
    batch, queries, heads, _, _ = locations.shape
    output = []
    for b in range(batch):
        for q in range(queries):
            for head in range(heads):
                total, point, start = value.new_zeros(value.shape[-1]), 0, 0
                for (height, width), count in zip(SHAPES, POINTS, strict=True):
                    plane = value[b, start : start + height * width, head].T.reshape(-1, height, width)
                    for _ in range(count):
                        x, y = locations[b, q, head, point]
                        sample = bilinear(plane, x * width - 0.5, y * height - 0.5)
                        total = total + sample * weights[b, q, head, point]
                        point += 1
                    start += height * width
                output.append(total)
    return torch.stack(output).view(batch, queries, -1)


@pytest.mark.parametrize("name", BACKENDS)
def test_backends_agree_with_sampling_by_hand(name: str) -> None:
    torch.manual_seed(0)
    inputs = [
        torch.randn(2, 30, 2, 3, dtype=torch.float64, requires_grad=True),
        (torch.rand(2, 4, 2, 5, 2, dtype=torch.float64) * 1.4 - 0.2).requires_grad_(),
        torch.rand(2, 4, 2, 5, dtype=torch.float64, requires_grad=True),
    ]
    value, locations, weights = inputs
    found = BACKENDS[name](value, SHAPES, locations, weights, POINTS)
    expected = by_hand(value, locations, weights)
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(found)
    for a, b in zip(
        torch.autograd.grad(found, inputs, direction), torch.autograd.grad(expected, inputs, direction), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_nearest_sampling_takes_one_pixel() -> None:
    torch.manual_seed(0)
    value = torch.randn(2, 30, 2, 3, dtype=torch.float64, requires_grad=True)
    locations = torch.rand(2, 4, 2, 5, 2, dtype=torch.float64) * 1.4 - 0.2
    weights = torch.rand(2, 4, 2, 5, dtype=torch.float64, requires_grad=True)
    found = deform_attn_nearest(value, SHAPES, locations, weights, POINTS)
    for b, q, head in itertools.product(range(2), range(4), range(2)):
        expected, start, point = torch.zeros(3, dtype=torch.float64), 0, 0
        for (height, width), count in zip(SHAPES, POINTS, strict=True):
            for _ in range(count):
                x, y = (locations[b, q, head, point] * torch.tensor([width, height])).tolist()
                column, row = (min(max(int(v + 0.5), 0), n - 1) for v, n in ((x, width), (y, height)))
                expected = expected + value[b, start + row * width + column, head] * weights[b, q, head, point]
                point += 1
            start += height * width
        torch.testing.assert_close(found[b, q].view(2, 3)[head], expected)
    found.sum().backward()
    assert value.grad.abs().sum() > 0
    assert weights.grad.abs().sum() > 0


def test_nearest_sampling_freezes_the_offsets() -> None:
    attention = MultiScaleDeformableAttention(16, 4, [2, 3], project=True, sampling="nearest")
    assert not any(p.requires_grad for p in attention.sampling_offsets.parameters())
    with pytest.raises(ValueError, match="choose one of bilinear, nearest"):
        MultiScaleDeformableAttention(16, 4, [2], sampling="cubic")


def test_points_start_on_rays_around_the_reference() -> None:
    attention = MultiScaleDeformableAttention(16, 4, [2, 3])
    bias = attention.sampling_offsets.bias.view(4, 5, 2)
    steps = bias.abs().amax(dim=-1)
    assert torch.allclose(steps, torch.tensor([1.0, 2, 1, 2, 3]).expand(4, -1))


def test_an_unknown_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEIM_DEFORM_ATTN", "abacus")
    with pytest.raises(ValueError, match="abacus"):
        selected_backend()


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="not divisible"):
        MultiScaleDeformableAttention(10, 4, [2])
