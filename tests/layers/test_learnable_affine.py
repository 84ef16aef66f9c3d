"""The learnable affine fused with the normalization equals the separate affine, including gradients."""

import copy
from collections.abc import Callable

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

from deim.layers.learnable_affine import LearnableAffine
from deim.layers.normalization import can_fuse
from deim.layers.ops import batch_norm, native
from deim.modeling.backbone.hgnetv2 import HGConv

Affine = Callable[[LearnableAffine, nn.Module, Tensor], Tensor]
needs_c = pytest.mark.skipif(native.unavailable_reason(batch_norm.SOURCE) is not None, reason="no C compiler found")


def affine_after_norm(affine: LearnableAffine, norm: nn.Module, x: Tensor) -> Tensor:
    return affine.scale * norm(x).relu() + affine.bias


def unfused(affine: LearnableAffine, norm: nn.Module, x: Tensor) -> Tensor:
    return affine(norm(x).relu())


def fused(affine: LearnableAffine, norm: nn.Module, x: Tensor) -> Tensor:
    x = x.to(memory_format=torch.channels_last)
    assert isinstance(norm, nn.BatchNorm2d)
    assert can_fuse(norm, x)
    return affine.fused_norm_relu(norm, x)


@pytest.fixture(params=[(0.7, 0.3), (-0.4, 0.2), (1.3, -0.6)], ids=str)
def affine(request: pytest.FixtureRequest) -> LearnableAffine:
    affine = LearnableAffine().double()
    for parameter, value in zip(affine.parameters(), request.param, strict=True):
        nn.init.constant_(parameter, value)
    return affine


@pytest.fixture
def norm() -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6).double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm


def outputs_and_gradients(
    apply: Affine, affine: LearnableAffine, norm: nn.Module, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return the output, its gradients and the running statistics of the normalization."""
    torch.manual_seed(1)
    x, upstream = torch.randn(2, 2, 6, 9, 7, dtype=torch.float64).to(dtype)
    affine, norm = copy.deepcopy(affine).to(dtype), copy.deepcopy(norm).to(dtype)
    result = apply(affine, norm, x.requires_grad_())
    result.backward(upstream)
    gradients = {"x": x.grad, **{name: value.grad for name, value in nn.Sequential(affine, norm).named_parameters()}}
    return {"result": result.detach(), **gradients, **dict(norm.named_buffers())}


@pytest.mark.parametrize(
    ("apply", "dtype", "tolerance"),
    [
        (unfused, torch.float64, 1e-13),
        (unfused, torch.float32, 2e-6),
        pytest.param(fused, torch.float32, 2e-6, marks=needs_c),
    ],
)
def test_fused_affine_equals_unfused_affine(
    apply: Affine, dtype: torch.dtype, tolerance: float, affine: LearnableAffine, norm: nn.Module
) -> None:
    expected = outputs_and_gradients(affine_after_norm, affine, norm, torch.float64)
    for name, value in outputs_and_gradients(apply, affine, norm, dtype).items():
        torch.testing.assert_close(value.to(expected[name].dtype), expected[name], rtol=tolerance, atol=tolerance)


def test_affine_after_frozen_normalization(affine: LearnableAffine, norm: nn.Module) -> None:
    conv = HGConv(6, 6, 1, learnable_affine=True).double().train()
    conv.norm = FrozenBatchNorm2d.convert_frozen_batchnorm(copy.deepcopy(norm)).double()
    conv.affine = affine
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(conv.normalize_and_activate(x), affine_after_norm(affine, conv.norm, x))


def test_affine_propagates_nan(affine: LearnableAffine) -> None:
    x = torch.tensor([1.0, torch.nan, -1.0], dtype=torch.float64)
    assert affine(x.relu()).isnan().tolist() == [False, True, False]


@needs_c
def test_fused_affine_propagates_nan(affine: LearnableAffine) -> None:
    x = torch.randn(2, 4, 5, 5)
    x[0, 1, 2, 3] = torch.nan
    out = fused(affine.float(), nn.BatchNorm2d(4), x)
    assert out[:, 1].isnan().all()
    assert torch.isfinite(out[:, [0, 2, 3]]).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_affine_keeps_half_precision(dtype: torch.dtype, affine: LearnableAffine) -> None:
    """In mixed precision, gradients of parameters have the dtype of the parameters."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 40, 40).to(dtype).requires_grad_()
    single = copy.deepcopy(affine).float()
    result = single(x)
    result.sum().backward()
    assert result.dtype == dtype
    for parameter, exact in ((single.scale, x.detach().double().sum()), (single.bias, torch.tensor(float(x.numel())))):
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert abs(float(parameter.grad) - float(exact)) <= torch.finfo(dtype).eps * x.detach().double().abs().sum()


@needs_c
def test_fused_affine_saves_no_intermediate_activations() -> None:
    conv = HGConv(3, 4, 3, learnable_affine=True).train()
    saved: dict[int, int] = {}

    def record(tensor: Tensor) -> Tensor:
        if tensor.shape[1:2] == (4,) and tensor.dim() == 4:
            saved[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        conv(torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last))
    assert list(saved.values()) == [2 * 4 * 8 * 8], "only the output of the convolution"
