"""The learnable affine that normalisation does computes, and learns, what the plain one does."""

import copy
from collections.abc import Callable

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

from deim.layers.learnable_affine import HoldAtBias, LearnableAffine
from deim.modeling.backbone.hgnetv2 import HGConv

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Affine = Callable[[LearnableAffine, nn.Module, Tensor], Tensor]


def plain(affine: LearnableAffine, norm: nn.Module, x: Tensor) -> Tensor:
    return affine(norm(x).relu())


def merged(affine: LearnableAffine, norm: nn.Module, x: Tensor) -> Tensor:
    return affine.of_rectified(norm, x)


def in_channels_last(affine: LearnableAffine, norm: nn.Module, x: Tensor) -> Tensor:
    """In single precision on a CPU, as one step in C."""
    return merged(affine, norm, x.to(memory_format=torch.channels_last))


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


def learnt(how: Affine, affine: LearnableAffine, norm: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The result, its gradients and the statistics of normalisation, as made on a GPU where there is one."""
    torch.manual_seed(1)
    x, upstream = torch.randn(2, 2, 6, 9, 7, dtype=torch.float64).to(DEVICE, dtype)
    affine, norm = copy.deepcopy(affine).to(DEVICE, dtype), copy.deepcopy(norm).to(DEVICE, dtype)
    result = how(affine, norm, x.requires_grad_())
    result.backward(upstream)
    gradients = {"x": x.grad, **{name: value.grad for name, value in nn.Sequential(affine, norm).named_parameters()}}
    return {"result": result.detach(), **gradients, **dict(norm.named_buffers())}


@pytest.mark.parametrize("how", [merged, in_channels_last])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)], ids=str)
def test_results_gradients_and_statistics_are_those_of_the_plain_affine(
    how: Affine, dtype: torch.dtype, tolerance: float, affine: LearnableAffine, norm: nn.Module
) -> None:
    expected = learnt(plain, affine, norm, torch.float64)
    for name, value in learnt(how, affine, norm, dtype).items():
        torch.testing.assert_close(value.to(expected[name].dtype), expected[name], rtol=tolerance, atol=tolerance)


def test_normalisation_that_is_frozen_merges_as_well(affine: LearnableAffine, norm: nn.Module) -> None:
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(copy.deepcopy(norm)).double()
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(merged(affine, frozen, x), plain(affine, frozen, x))


def test_a_value_that_is_no_number_stays_one(affine: LearnableAffine) -> None:
    x = torch.tensor([1.0, torch.nan, -1.0])
    held = HoldAtBias.apply(x.clone(), affine.scale.float(), affine.bias.float())
    assert held.isnan().tolist() == [False, True, False]


def test_half_precision_keeps_its_type_and_learns_in_full(affine: LearnableAffine) -> None:
    x = torch.randn(2, 3, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    held = HoldAtBias.apply(x * 1, affine.scale, affine.bias)
    held.sum().backward()
    assert held.dtype == x.dtype
    assert affine.bias.grad is not None
    assert affine.bias.grad.dtype == torch.float64
    assert affine.bias.grad.item() == x.numel()


def test_nothing_but_the_result_is_kept_of_it() -> None:
    conv = HGConv(3, 4, 3, learnable_affine=True).train()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.shape[1:2] == (4,) and tensor.dim() == 4:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        conv(torch.randn(2, 3, 8, 8))
    assert sum(kept.values()) == 2 * (2 * 4 * 8 * 8)  # of the convolution, and of the affine
