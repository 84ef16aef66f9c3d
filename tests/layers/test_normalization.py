"""Normalization and activation in one step, in C, against torch in double precision."""

import copy

import pytest
import torch
from torch import Tensor, nn

from deim.engine.activation_checkpointing import checkpoint_activations
from deim.layers import RepELAN, normalization
from deim.layers.normalization import can_fuse, normalize
from deim.layers.ops import batch_norm, native
from deim.layers.ops.batch_norm import Activation, BatchNorm

needs_compiler = pytest.mark.skipif(
    batch_norm.unavailable_reason(torch.ones(2, 1, 2, 2)) is not None, reason="no C compiler found"
)
ACTIVATIONS = {"none": nn.Identity, "relu": nn.ReLU, "silu": nn.SiLU}


def maps(channels: int, height: int = 37, width: int = 29) -> Tensor:
    """Values far from zero compared with how they vary."""
    generator = torch.Generator().manual_seed(channels)
    return (torch.randn(3, channels, height, width, generator=generator) * 0.5 + 4).to(
        memory_format=torch.channels_last
    )


def norm_of(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def learnt(
    norm: nn.BatchNorm2d, activation: nn.Module, x: Tensor, upstream: Tensor, dtype: torch.dtype
) -> dict[str, Tensor]:
    norm, x = copy.deepcopy(norm).to(dtype), x.to(dtype, copy=True).requires_grad_()
    out = normalize(norm, activation, x)
    out.backward(upstream.to(dtype))
    gradients = {name: value.grad for name, value in norm.named_parameters()}
    return {"out": out.detach(), "x": x.grad, **gradients, **dict(norm.named_buffers())}


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("channels", [3, 8, 16, 21, 64, 100, 300])
def test_it_computes_and_learns_what_torch_does(channels: int, name: str, threads: int, monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.manual_seed(0)
    norm, x, activation = norm_of(channels), maps(channels), ACTIVATIONS[name]()
    assert can_fuse(norm, x)
    upstream = torch.randn_like(x)
    expected = learnt(norm, activation, x, upstream, torch.float64)
    for quantity, value in learnt(norm, activation, x, upstream, torch.float32).items():
        # torch's own single precision is as far off
        tolerance = 1e-5 * expected[quantity].abs().max().item()
        found = value.to(expected[quantity].dtype)
        torch.testing.assert_close(found, expected[quantity], rtol=0, atol=tolerance, msg=quantity)


@needs_compiler
def test_the_bound_learns_from_what_it_holds() -> None:
    torch.manual_seed(0)
    x, upstream = maps(5), torch.randn(3, 5, 37, 29)
    weight, bias, bound = torch.randn(5).requires_grad_(), torch.randn(5).requires_grad_(), torch.tensor([-0.3])
    for activation in (Activation(lower=-0.3), Activation(upper=-0.3)):
        out, mean, variance = BatchNorm.apply(x, weight, bias, bound.requires_grad_(), 1e-5, activation)
        found = torch.autograd.grad(out, (weight, bias, bound), upstream)
        plain = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt() * weight[:, None, None]
        plain = plain + bias[:, None, None]
        plain = plain.maximum(bound) if activation.lower > -1 else plain.minimum(bound)
        torch.testing.assert_close(out, plain, rtol=1e-4, atol=1e-5)
        expected = torch.autograd.grad(plain, (weight, bias, bound), upstream)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


@needs_compiler
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_same_comes_out_to_the_bit(name: str) -> None:
    norm, x, upstream = norm_of(24), maps(24), torch.randn(3, 24, 37, 29)
    first, second = (learnt(norm, ACTIVATIONS[name](), x, upstream, torch.float32) for _ in range(2))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@needs_compiler
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_value_that_is_no_number_is_seen(name: str) -> None:
    x = maps(8)
    x[1, 3, 5, 7] = torch.nan
    out = normalize(norm_of(8), ACTIVATIONS[name](), x)
    assert out[:, 3].isnan().all()
    assert torch.isfinite(out[:, [0, 1, 2, 4, 5, 6, 7]]).all()


@needs_compiler
def test_large_values_saturate_and_do_not_overflow() -> None:
    norm, x = norm_of(1), maps(1)
    nn.init.constant_(norm.weight, 1e4)
    out = normalize(norm, nn.SiLU(), x.requires_grad_())
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(x.grad).all()
    assert out.min() > -0.3
    assert out.max() > 1e4


@needs_compiler
def test_the_map_before_the_activation_is_not_kept() -> None:
    kept: set[int] = set()
    norm, x = norm_of(8), maps(8).requires_grad_()

    def keep(tensor: Tensor) -> Tensor:
        if tensor.numel() == x.numel():
            kept.add(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        normalize(norm, nn.SiLU(), x)
    assert kept == {x.data_ptr()}


@needs_compiler
def test_blocks_whose_activations_are_not_kept_learn_the_same() -> None:
    torch.manual_seed(0)
    whole = nn.ModuleDict({"encoder": RepELAN(8, 6, 4, 3, 1)}).to(memory_format=torch.channels_last)
    sparing = copy.deepcopy(whole)
    checkpoint_activations(sparing, ["encoder"])
    for model in (whole, sparing):
        model["encoder"](maps(8)).square().sum().backward()
    for (name, value), other in zip(whole.named_parameters(), sparing.parameters(), strict=True):
        assert torch.equal(value.grad, other.grad), name
    for (name, value), other in zip(whole.named_buffers(), sparing.buffers(), strict=True):
        assert torch.equal(value, other), name


@pytest.mark.parametrize(
    "change",
    [
        lambda norm, x: (norm.eval(), x),
        lambda norm, x: (norm, x.contiguous()),
        lambda norm, x: (norm.double(), x.double()),
        lambda norm, x: (nn.SyncBatchNorm(4), x),
        lambda norm, x: (nn.BatchNorm2d(4, affine=False), x),
        lambda norm, x: (nn.BatchNorm2d(4, momentum=None), x),
        lambda norm, x: (nn.BatchNorm2d(4, track_running_stats=False), x),
        lambda norm, x: (norm, x[:1, :, :1, :1]),
    ],
    ids=["evaluation", "contiguous", "double", "of ranks", "not affine", "cumulative", "no statistics", "one value"],
)
def test_it_is_not_for_everything(change) -> None:
    assert not can_fuse(*change(norm_of(4), maps(4)))


def test_one_value_of_each_channel_is_refused_as_torch_does() -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        normalize(norm_of(4), nn.ReLU(), torch.ones(1, 4, 1, 1))


def test_without_a_compiler_torch_computes_it(monkeypatch) -> None:
    monkeypatch.setattr(native, "library", lambda source: "no C compiler found")
    norm, x = norm_of(4), maps(4)
    expected = copy.deepcopy(norm)(x).relu()
    monkeypatch.setattr(normalization, "BatchNorm", None)
    assert torch.equal(normalize(norm, nn.ReLU(), x), expected)
