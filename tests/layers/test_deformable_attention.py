"""The deformable-attention operator and its gradients equal a Python reference in float64."""

import importlib.util
import itertools
import math
import os
import subprocess
import sys

import pytest
import torch

from deim.layers import MultiScaleDeformableAttention
from deim.layers.ops import deform_attn, deform_attn_nearest, selected_backend, triton_backend
from deim.layers.ops.c_backend import deform_attn_c
from deim.layers.ops.detrex_backend import pad_points
from deim.layers.ops.torch_backend import deform_attn_torch
from deim.layers.ops.triton_backend import deform_attn_triton
from tests.conftest import ROOT, needs_utf8

SHAPES, POINTS = [(4, 6), (2, 3)], [3, 2]


def bilinear(plane: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the bilinear sample of a (D, h, w) map at pixel coordinates; zero outside of the map."""
    depth, height, width = plane.shape
    total = plane.new_zeros(depth)
    for row in (math.floor(float(y)), math.floor(float(y)) + 1):
        for column in (math.floor(float(x)), math.floor(float(x)) + 1):
            if 0 <= row < height and 0 <= column < width:
                total = total + plane[:, row, column] * (1 - (x - column).abs()) * (1 - (y - row).abs())
    return total


def python_reference(value, locations, weights):
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


def random_inputs(
    batch: int, queries: int, heads: int, dim: int, shapes: list[tuple[int, int]], points: list[int]
) -> list[torch.Tensor]:
    """Return random values, sampling locations (some outside of the map) and weights, which require gradients."""
    generator = torch.Generator().manual_seed(0)
    tokens = sum(height * width for height, width in shapes)
    value = torch.randn(batch, tokens, heads, dim, generator=generator, dtype=torch.float64)
    locations = torch.rand(batch, queries, heads, sum(points), 2, generator=generator, dtype=torch.float64) * 1.4 - 0.2
    weights = torch.rand(batch, queries, heads, sum(points), generator=generator, dtype=torch.float64)
    return [x.requires_grad_() for x in (value, locations, weights)]


def with_gradients(attend, inputs, shapes, points) -> list[torch.Tensor]:
    """Return the output of an implementation, and its gradients for a fixed upstream gradient."""
    actual = attend(inputs[0], shapes, inputs[1], inputs[2], points)
    direction = torch.linspace(-1, 1, actual.numel()).view(actual.shape).to(actual)
    return [actual, *torch.autograd.grad(actual, inputs, direction)]


def test_torch_backend_equals_python_reference() -> None:
    inputs = random_inputs(2, 4, 2, 3, SHAPES, POINTS)
    actual = with_gradients(deform_attn_torch, inputs, SHAPES, POINTS)
    expected = with_gradients(
        lambda value, _, where, weights, __: python_reference(value, where, weights), inputs, SHAPES, POINTS
    )
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


KERNELS = {"c": deform_attn_c, "triton": deform_attn_triton}
# Where there is no GPU, Triton's interpreter runs its kernels on the CPU.
DEVICES = {"c": "cpu", "triton": "cuda" if torch.cuda.is_available() else "cpu"}
CASES = {
    **{f"{dim} channels": (2, 5, 2, dim, [(4, 6), (2, 3)], [3, 2]) for dim in (3, 8, 16, 24, 32, 40, 56, 64)},
    "odd maps": (1, 7, 3, 8, [(7, 1), (1, 5), (3, 3)], [4, 4, 4]),
    "maps of one pixel": (1, 3, 1, 8, [(1, 1), (1, 1)], [2, 3]),
    "more queries than a block": (2, 70, 1, 8, [(5, 5)], [3]),
    "one image, one query, one head": (1, 1, 1, 8, [(2, 2)], [1]),
    "no queries": (2, 0, 2, 8, [(2, 2)], [1]),
    "no images": (0, 4, 2, 8, [(2, 2)], [1]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_equal_torch_backend(name: str, case: str) -> None:
    """The torch backend runs in float64, the kernels in float32."""
    *sizes, shapes, points = CASES[case]
    inputs = random_inputs(*sizes, shapes, points)
    # Round the inputs to float32 values, so that both implementations sample the same pixels.
    inputs = [x.detach().float().double().requires_grad_() for x in inputs]
    expected = with_gradients(deform_attn_torch, inputs, shapes, points)
    single = [x.detach().float().to(DEVICES[name]).requires_grad_() for x in inputs]
    actual = with_gradients(KERNELS[name], single, shapes, points)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.double().cpu(), b, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_support_half_precision(name: str, dtype: torch.dtype) -> None:
    """Outputs and gradients have the dtype of the inputs; sums are accumulated in float32."""
    inputs = random_inputs(1, 40, 2, 8, SHAPES, POINTS)
    value, locations, weights = (x.detach().float().to(DEVICES[name]) for x in inputs)
    mixed = [value.to(dtype).requires_grad_(), locations.requires_grad_(), weights.requires_grad_()]
    actual = with_gradients(KERNELS[name], mixed, SHAPES, POINTS)
    exact = [x.detach().float().requires_grad_() for x in mixed]
    expected = with_gradients(deform_attn_torch, exact, SHAPES, POINTS)
    assert [x.dtype for x in actual] == [dtype, dtype, torch.float32, torch.float32]
    rounding = 2 * torch.finfo(dtype).eps
    for a, b in zip(actual, expected, strict=True):
        assert float((a.float() - b).detach().abs().max()) < rounding * float(b.detach().abs().max())


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_propagate_nan(name: str) -> None:
    value, locations, weights = (
        x.detach().float().to(DEVICES[name]) for x in random_inputs(1, 3, 2, 8, SHAPES, POINTS)
    )
    locations[0, 1, 0, 2] = torch.nan
    actual = KERNELS[name](value, SHAPES, locations, weights, POINTS).view(3, 2, 8)
    assert actual[1, 0].isnan().all()
    assert actual.isnan().sum() == 8


@needs_utf8
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_pass_opcheck(name: str) -> None:
    inputs = [x.detach().float().to(DEVICES[name]).requires_grad_() for x in random_inputs(1, 3, 2, 8, SHAPES, POINTS)]
    arguments = (inputs[0], [side for shape in SHAPES for side in shape], inputs[1], inputs[2], POINTS)
    torch.library.opcheck(getattr(torch.ops.deim, f"deform_attn_{name}").default, arguments)
    compiled = torch.compile(KERNELS[name], backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(inputs[0], SHAPES, *inputs[1:], POINTS), KERNELS[name](inputs[0], SHAPES, *inputs[1:], POINTS)
    )


@pytest.mark.parametrize("capability", [80, 90])
def test_triton_kernels_compile_for_gpus(capability: int) -> None:
    """Compilation to machine code needs no GPU."""
    pytest.importorskip("triton")
    code = f"""
import torch, deim, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from deim.layers.ops import triton_kernels
single = ["locations", "grad_value", "grad_locations", "grad_weights"]
for kernel, outputs in ((triton_kernels.forward, ["out"]), (triton_kernels.backward, ["grad", *single[1:]])):
    for dtype, dim in (("fp32", 24), ("fp16", 32), ("bf16", 16)):
        constants = dict(HEADS=8, DIM=dim, POINTS=12, BLOCK=32, COLUMNS=triton.next_power_of_2(dim))
        pointers = ["value", "locations", "weights", "levels", *outputs]
        types = {{name: "*" + ("fp32" if name in single else dtype) for name in pointers}} | {{"levels": "*i32"}}
        types |= dict(tokens="i32", queries="i32") | dict.fromkeys(constants, "constexpr")
        compiled = triton.compile(ASTSource(kernel, types, constants), target=GPUTarget("cuda", {capability}, 32))
        assert len(compiled.asm["cubin"]) > 1000
"""
    environment = {name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr


def test_pad_points_for_detrex() -> None:
    value, locations, weights = random_inputs(2, 4, 2, 8, SHAPES, POINTS)
    where, weight = pad_points(locations, weights, POINTS)
    assert where.shape == (2, 4, 2, 2, 3, 2)
    actual = deform_attn_torch(value, SHAPES, where.flatten(3, 4), weight.flatten(3), [3, 3])
    torch.testing.assert_close(actual, deform_attn_torch(value, SHAPES, locations, weights, POINTS))


def test_inconsistent_shapes_are_rejected() -> None:
    value, locations, weights = random_inputs(2, 4, 2, 8, SHAPES, POINTS)
    deform_attn(value, SHAPES, locations, weights, POINTS)
    for wrong in (
        (value[:, 1:], SHAPES, locations, weights, POINTS),
        (value, SHAPES, locations, weights, [2, 2]),
        (value, SHAPES, locations[:1], weights, POINTS),
        (value, SHAPES, locations, weights[..., 1:], POINTS),
        (value, SHAPES[:1], locations, weights, POINTS),
    ):
        with pytest.raises(ValueError, match="deformable attention: inconsistent shapes: locations"):
            deform_attn(*wrong)


def test_nearest_sampling_reads_one_pixel() -> None:
    torch.manual_seed(0)
    value = torch.randn(2, 30, 2, 3, dtype=torch.float64, requires_grad=True)
    locations = torch.rand(2, 4, 2, 5, 2, dtype=torch.float64) * 1.4 - 0.2
    weights = torch.rand(2, 4, 2, 5, dtype=torch.float64, requires_grad=True)
    total = torch.zeros((), dtype=torch.float64)
    actual = deform_attn_nearest(value, SHAPES, locations, weights, POINTS)
    for b, q, head in itertools.product(range(2), range(4), range(2)):
        expected, start, point = torch.zeros(3, dtype=torch.float64), 0, 0
        for (height, width), count in zip(SHAPES, POINTS, strict=True):
            for _ in range(count):
                x, y = (locations[b, q, head, point] * torch.tensor([width, height])).tolist()
                column, row = (min(max(int(v + 0.5), 0), n - 1) for v, n in ((x, width), (y, height)))
                expected = expected + value[b, start + row * width + column, head] * weights[b, q, head, point]
                point += 1
            start += height * width
        torch.testing.assert_close(actual[b, q].view(2, 3)[head], expected)
        total = total + expected.square().sum()
    gradients = [torch.autograd.grad(loss, (value, weights)) for loss in (actual.square().sum(), total)]
    for gradient, expected_gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient)


def test_nearest_sampling_freezes_the_offsets() -> None:
    attention = MultiScaleDeformableAttention(16, 4, [2, 3], project=True, sampling="nearest")
    assert not any(p.requires_grad for p in attention.sampling_offsets.parameters())
    with pytest.raises(ValueError, match="choose one of bilinear, nearest"):
        MultiScaleDeformableAttention(16, 4, [2], sampling="cubic")


def test_initial_sampling_offsets_lie_on_rays() -> None:
    attention = MultiScaleDeformableAttention(16, 4, [2, 3])
    bias = attention.sampling_offsets.bias.view(4, 5, 2)
    steps = bias.abs().amax(dim=-1)
    assert torch.allclose(steps, torch.tensor([1.0, 2, 1, 2, 3]).expand(4, -1))
    directions = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])[:, None].expand(4, 5, 2)
    torch.testing.assert_close(bias / steps[..., None], directions, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_triton_is_available_if_the_first_call_has_no_gradients(monkeypatch: pytest.MonkeyPatch, mode: type) -> None:
    compare = triton_backend._difference_from_torch
    monkeypatch.setattr(triton_backend, "deform_attn_triton", deform_attn_torch)
    monkeypatch.setattr(triton_backend, "_difference_from_torch", lambda device: compare(torch.device("cpu")))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with mode():
        assert triton_backend.unavailable_reason.__wrapped__() is None


def test_unknown_backend_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEIM_DEFORM_ATTN", "abacus")
    with pytest.raises(ValueError, match="abacus"):
        selected_backend()


def test_num_heads_must_divide_embed_dim() -> None:
    with pytest.raises(ValueError, match="not divisible"):
        MultiScaleDeformableAttention(10, 4, [2])
