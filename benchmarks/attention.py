"""Time of deformable attention for each usable backend, forward and backward; on a GPU, also its memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deim.layers.ops import BACKENDS, unavailable_reason
from deim.measurement.timing import gpu_time_and_memory, print_report, time_interleaved, timing_rows

Shapes = list[tuple[int, int]]
# images, feature map shapes, queries (None: one per token of the maps), heads, channels per head, points of each level
CASES: dict[str, tuple[int, Shapes, int | None, int, int, list[int]]] = {
    "D-FINE-L, training, batch 4": (4, [(80, 80), (40, 40), (20, 20)], 500, 8, 32, [3, 6, 3]),
    "D-FINE-N, training, batch 4": (4, [(40, 40), (20, 20)], 500, 8, 16, [6, 6]),
    "D-FINE-L, one image": (1, [(80, 80), (40, 40), (20, 20)], 300, 8, 32, [3, 6, 3]),
    "encoder of Deformable DETR, 800 x 1072": (1, [(100, 134), (50, 67), (25, 34), (13, 17)], None, 8, 32, [4] * 4),
}


def random_inputs(case: str, device: torch.device, dtype: torch.dtype) -> tuple[list[Tensor], Shapes, list[int]]:
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
    results: list[dict[str, Any]] = []
    for case in list(CASES)[:cases]:
        inputs, shapes, points = random_inputs(case, device, dtype)
        reference = _attend("torch", [x.detach().double() for x in inputs], shapes, points)
        errors = {
            name: float((_attend(name, inputs, shapes, points) - reference).detach().abs().max()) for name in usable
        }
        for direction, step in (("forward", _forward), ("forward + backward", _forward_backward)):
            runs: dict[str, Callable[[], Any]] = {name: partial(step, name, inputs, shapes, points) for name in usable}
            for row in timing_rows(time_interleaved(runs, rounds, device), "torch"):
                gpu_columns = gpu_time_and_memory(runs[row["run"]], device)
                results.append(
                    {"case": case, "direction": direction, **row, **gpu_columns, "error": errors[row["run"]]}
                )
    print_report(results, path, device)


def _attend(name: str, inputs: list[Tensor], shapes: Shapes, points: list[int]) -> Tensor:
    return BACKENDS[name].run(inputs[0], shapes, inputs[1], inputs[2], points)


@torch.no_grad()
def _forward(name: str, inputs: list[Tensor], shapes: Shapes, points: list[int]) -> None:
    _attend(name, inputs, shapes, points)


def _forward_backward(name: str, inputs: list[Tensor], shapes: Shapes, points: list[int]) -> None:
    output = _attend(name, inputs, shapes, points)
    torch.autograd.grad(output, inputs, torch.ones_like(output))
