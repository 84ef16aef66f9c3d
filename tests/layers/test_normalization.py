"""Fused normalization and activation in C equal torch in double precision."""

import copy

import pytest
import torch
from torch import Tensor, nn

from deim.engine.performance.activation_checkpointing import checkpoint_activations
from deim.layers import RepELAN, normalization
from deim.layers.normalization import can_fuse, normalize
from deim.layers.ops import batch_norm, native
from deim.layers.ops.batch_norm import Activation, BatchNorm

needs_compiler = pytest.mark.skipif(
    batch_norm.unavailable_reason(torch.ones(2, 1, 2, 2)) is not None, reason="no C compiler found"
)
ACTIVATIONS = {"none": nn.Identity, "relu": nn.ReLU, "silu": nn.SiLU}


def random_maps(channels: int, height: int = 37, width: int = 29) -> Tensor:
    """Return values whose mean is large relative to their standard deviation."""
    generator = torch.Generator().manual_seed(channels)
    return (torch.randn(3, channels, height, width, generator=generator) * 0.5 + 4).to(
        memory_format=torch.channels_last
    )


def random_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def outputs_and_gradients(
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
def test_batch_norm_kernel_equals_torch(channels: int, name: str, threads: int, monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.manual_seed(0)
    norm, x, activation = random_norm(channels), random_maps(channels), ACTIVATIONS[name]()
    assert can_fuse(norm, x)
    # In float32, rounding can move values near zero across the threshold of the ReLU, which changes their gradient.
    is_near_zero = copy.deepcopy(norm).double()(x.double()).abs() < 1e-4
    upstream = torch.randn_like(x).masked_fill(is_near_zero, 0.0)
    expected = outputs_and_gradients(norm, activation, x, upstream, torch.float64)
    for quantity, value in outputs_and_gradients(norm, activation, x, upstream, torch.float32).items():
        # The errors of torch's own float32 implementation have the same magnitude.
        tolerance = 1e-5 * expected[quantity].abs().max().item()
        actual = value.to(expected[quantity].dtype)
        torch.testing.assert_close(actual, expected[quantity], rtol=0, atol=tolerance, msg=quantity)


@needs_compiler
def test_gradient_of_the_clamping_bound() -> None:
    torch.manual_seed(0)
    x, upstream = random_maps(5), torch.randn(3, 5, 37, 29)
    weight, bias, bound = torch.randn(5).requires_grad_(), torch.randn(5).requires_grad_(), torch.tensor([-0.3])
    for activation in (Activation(lower=-0.3), Activation(upper=-0.3)):
        out, mean, variance = BatchNorm.apply(x, weight, bias, bound.requires_grad_(), 1e-5, activation)
        actual = torch.autograd.grad(out, (weight, bias, bound), upstream)
        plain = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt() * weight[:, None, None]
        plain = plain + bias[:, None, None]
        plain = plain.maximum(bound) if activation.lower > -1 else plain.minimum(bound)
        torch.testing.assert_close(out, plain, rtol=1e-4, atol=1e-5)
        expected = torch.autograd.grad(plain, (weight, bias, bound), upstream)
        for actual_value, expected_value in zip(actual, expected, strict=True):
            torch.testing.assert_close(actual_value, expected_value, rtol=1e-4, atol=1e-3)


@needs_compiler
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_batch_norm_kernel_is_deterministic(name: str) -> None:
    norm, x, upstream = random_norm(24), random_maps(24), torch.randn(3, 24, 37, 29)
    first, second = (outputs_and_gradients(norm, ACTIVATIONS[name](), x, upstream, torch.float32) for _ in range(2))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@needs_compiler
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_batch_norm_kernel_propagates_nan(name: str) -> None:
    x = random_maps(8)
    x[1, 3, 5, 7] = torch.nan
    out = normalize(random_norm(8), ACTIVATIONS[name](), x)
    assert out[:, 3].isnan().all()
    assert torch.isfinite(out[:, [0, 1, 2, 4, 5, 6, 7]]).all()


@needs_compiler
def test_silu_of_large_values_does_not_overflow() -> None:
    norm, x = random_norm(1), random_maps(1)
    nn.init.constant_(norm.weight, 1e4)
    out = normalize(norm, nn.SiLU(), x.requires_grad_())
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(x.grad).all()
    assert out.min() > -0.3
    assert out.max() > 1e4


@needs_compiler
def test_fused_normalization_saves_no_intermediate_activations() -> None:
    saved: set[int] = set()
    norm, x = random_norm(8), random_maps(8).requires_grad_()

    def record(tensor: Tensor) -> Tensor:
        if tensor.numel() == x.numel():
            saved.add(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        normalize(norm, nn.SiLU(), x)
    assert saved == {x.data_ptr()}


@needs_compiler
def test_fused_normalization_supports_activation_checkpointing() -> None:
    torch.manual_seed(0)
    whole = nn.ModuleDict({"encoder": RepELAN(8, 6, 4, 3, 1)}).to(memory_format=torch.channels_last)
    sparing = copy.deepcopy(whole)
    checkpoint_activations(sparing, ["encoder"])
    for model in (whole, sparing):
        model["encoder"](random_maps(8)).square().sum().backward()
    for (name, value), expected_value in zip(whole.named_parameters(), sparing.parameters(), strict=True):
        assert torch.equal(value.grad, expected_value.grad), name
    for (name, value), expected_value in zip(whole.named_buffers(), sparing.buffers(), strict=True):
        assert torch.equal(value, expected_value), name


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
def test_unsupported_normalization_is_not_fused(change) -> None:
    assert not can_fuse(*change(random_norm(4), random_maps(4)))


def test_one_value_per_channel_is_rejected() -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        normalize(random_norm(4), nn.ReLU(), torch.ones(1, 4, 1, 1))


def test_without_a_compiler_torch_computes_the_normalization(monkeypatch) -> None:
    monkeypatch.setattr(native, "library", lambda source: "no C compiler found")
    norm, x = random_norm(4), random_maps(4)
    expected = copy.deepcopy(norm)(x).relu()
    monkeypatch.setattr(normalization, "BatchNorm", None)
    assert torch.equal(normalize(norm, nn.ReLU(), x), expected)
