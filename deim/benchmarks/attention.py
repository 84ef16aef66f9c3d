"""Time of deformable attention for each usable backend, forward and backward; on a GPU, also its memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deim.benchmarks.timing import interleaved, on_gpu, report, rows
from deim.layers.ops import BACKENDS, unavailable_reason

Shapes = list[tuple[int, int]]
# images, feature map shapes, queries (None: one per pixel), heads, channels per head, points of each level
CASES: dict[str, tuple[int, Shapes, int | None, int, int, list[int]]] = {
    "D-FINE-L, training, batch 4": (4, [(80, 80), (40, 40), (20, 20)], 500, 8, 32, [3, 6, 3]),
    "D-FINE-N, training, batch 4": (4, [(40, 40), (20, 20)], 500, 8, 16, [6, 6]),
    "D-FINE-L, one image": (1, [(80, 80), (40, 40), (20, 20)], 300, 8, 32, [3, 6, 3]),
    "encoder of Deformable DETR, 800 x 1072": (1, [(100, 134), (50, 67), (25, 34), (13, 17)], None, 8, 32, [4] * 4),
}


def example(case: str, device: torch.device, dtype: torch.dtype) -> tuple[list[Tensor], Shapes, list[int]]:
    """Return random values, sampling locations and attention weights that require gradients, shapes and points."""
    images, shapes, queries, heads, dim, points = CASES[case]
    generator = torch.Generator().manual_seed(0)
    tokens = sum(height * width for height, width in shapes)
    queries, total = queries or tokens, sum(points)
    value = torch.randn(images, tokens, heads, dim, generator=generator)
    locations = torch.rand(images, queries, heads, total, 2, generator=generator)
    weights = torch.rand(images, queries, heads, total, generator=generator).softmax(dim=-1)
    inputs = [value.to(device, dtype), locations.to(device), weights.to(device)]
    return [x.requires_grad_() for x in inputs], shapes, points


def run(rounds: int, cases: int | None, device_name: str, dtype_name: str, path: str | None) -> None:
    """Print a table of all backends, relative to torch's ``grid_sample``, with their largest difference from float64.

    Args:
        rounds: number of timed rounds.
        cases: number of cases of :data:`CASES` to run; None for all.
        device_name: such as "cpu" or "cuda".
        dtype_name: dtype of the values, such as "float32".
        path: JSON file for the results; None for none.
    """
    device, dtype = torch.device(device_name), getattr(torch, dtype_name)
    usable = [name for name in BACKENDS if unavailable_reason(name, device.type) is None]
    for name in BACKENDS.keys() - set(usable):
        print(f"not measured: {name}: {unavailable_reason(name, device.type)}")
    found: list[dict[str, Any]] = []
    for case in list(CASES)[:cases]:
        inputs, shapes, points = example(case, device, dtype)
        exact = _attend("torch", [x.detach().double() for x in inputs], shapes, points)
        errors = {n: float((_attend(n, inputs, shapes, points) - exact).detach().abs().max()) for n in usable}
        for what, step in (("forward", _forward), ("forward + backward", _both)):
            runs: dict[str, Callable[[], Any]] = {n: partial(step, n, inputs, shapes, points) for n in usable}
            for row in rows(interleaved(runs, rounds, device), "torch"):
                alone = on_gpu(runs[row["run"]], device)
                found.append({"case": case, "what": what, **row, **alone, "error": errors[row["run"]]})
    report(found, path, device)


def _attend(name: str, inputs: list[Tensor], shapes: Shapes, points: list[int]) -> Tensor:
    return BACKENDS[name].run(inputs[0], shapes, inputs[1], inputs[2], points)


@torch.no_grad()
def _forward(name: str, inputs: list[Tensor], shapes: Shapes, points: list[int]) -> None:
    _attend(name, inputs, shapes, points)


def _both(name: str, inputs: list[Tensor], shapes: Shapes, points: list[int]) -> None:
    attended = _attend(name, inputs, shapes, points)
    torch.autograd.grad(attended, inputs, torch.ones_like(attended))
