"""Fine-grained distribution refinement: bins, offsets and their targets."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deim.structures.distribution import (
    bin_targets,
    boxes_to_offsets,
    expected_offsets,
    offsets_to_boxes,
    weighting_function,
)

UP, REG_SCALE = torch.tensor([0.5]), torch.tensor([4.0])


def xyxy(box):
    return torch.cat([box[..., :2] - box[..., 2:] / 2, box[..., :2] + box[..., 2:] / 2], dim=-1)


def test_bin_values_follow_equation_5() -> None:
    values = weighting_function(32, UP, REG_SCALE).tolist()
    bound = 0.5 * 4
    assert values[16] == 0
    assert values[0] == pytest.approx(-2 * bound)
    assert values[32] == pytest.approx(2 * bound)
    for n in range(1, 16):
        expected = (bound + 1) ** (2 * n / 30) - 1
        assert values[16 + n] == pytest.approx(expected, rel=1e-6)
        assert values[16 - n] == pytest.approx(-expected, rel=1e-6)
    assert values == sorted(values)


@pytest.mark.parametrize("reg_max", [3, 2, 31])
def test_weighting_function_rejects_odd_or_small_reg_max(reg_max: int) -> None:
    with pytest.raises(ValueError, match="even and at least 4"):
        weighting_function(reg_max, UP, REG_SCALE)


def test_uniform_logits_give_zero_offsets() -> None:
    references = torch.rand(3, 5, 4) * 0.4 + 0.3
    offsets = expected_offsets(torch.zeros(3, 5, 4, 33), weighting_function(32, UP, REG_SCALE))
    torch.testing.assert_close(offsets_to_boxes(references, offsets, REG_SCALE), references, atol=1e-6, rtol=0)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31))
def test_boxes_to_offsets_inverts_offsets_to_boxes(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    references = torch.rand(7, 4, generator=generator) * 0.5 + 0.2
    boxes = torch.rand(7, 4, generator=generator) * 0.5 + 0.2
    offsets = boxes_to_offsets(references, xyxy(boxes), REG_SCALE)
    torch.testing.assert_close(offsets_to_boxes(references, offsets, REG_SCALE), boxes, atol=1e-5, rtol=0)


@settings(max_examples=50, deadline=None)
@given(st.floats(-3.99, 3.99))
def test_bin_targets_interpolate_between_two_bins(offset: float) -> None:
    values = weighting_function(32, UP, REG_SCALE)
    left, right_weight = bin_targets(torch.tensor([offset]), values)
    mean = values[left] * (1 - right_weight) + values[left + 1] * right_weight
    assert float(mean) == pytest.approx(offset, abs=1e-5)


def test_bin_targets_clamp_offsets_out_of_range() -> None:
    left, right_weight = bin_targets(torch.tensor([-100.0, 100.0]), weighting_function(32, UP, REG_SCALE))
    assert left.tolist() == [0, 31]
    assert right_weight.tolist() == [0, 1]
