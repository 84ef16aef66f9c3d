"""RMSNorm and SwiGLU."""

import pytest
import torch

from deim.layers import RMSNorm, SwiGLU


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_rms_norm_equals_its_formula(dtype: torch.dtype) -> None:
    """Half precision is normalized in float32, and rounded before it is multiplied by the weight."""
    torch.manual_seed(0)
    norm, x = RMSNorm(16).to(dtype), torch.randn(3, 5, 16, dtype=dtype) * 100
    torch.nn.init.normal_(norm.weight)
    wide = x.to(torch.promote_types(dtype, torch.float32))
    root = (wide.square().sum(dim=-1, keepdim=True) / 16 + 1e-6).sqrt()
    expected = (wide / root).to(dtype) * norm.weight
    tolerance = 4 * torch.finfo(dtype).eps if dtype.itemsize > 2 else 0.0
    torch.testing.assert_close(norm(x), expected, rtol=tolerance, atol=tolerance)


def test_rms_norm_has_the_published_epsilon() -> None:
    torch.testing.assert_close(RMSNorm(4)(torch.full((4,), 1e-3)), torch.full((4,), 0.5**0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_gives_float32_under_autocast(dtype: torch.dtype) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert RMSNorm(8)(torch.randn(2, 8, dtype=dtype)).dtype == torch.float32


def test_swiglu_is_initialized_as_one_xavier_matrix() -> None:
    torch.manual_seed(0)
    layer = SwiGLU(64, 48)
    bound = (6 / (64 + 2 * 48)) ** 0.5
    for linear, limit in ((layer.w1, bound), (layer.w2, bound), (layer.w3, (6 / (48 + 64)) ** 0.5)):
        assert 0.98 * limit < linear.weight.abs().max() <= limit
        assert linear.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.03)
        assert not linear.bias.any()
