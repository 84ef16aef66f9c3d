"""Interleaved timing of several implementations, and measured limits of the machine."""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch.profiler import ProfilerActivity, profile


def time_call(run: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of a call, including the work that it queues on the device."""
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def time_interleaved(
    runs: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device, warmup: int = 2
) -> dict[str, list[float]]:
    """Return the seconds of every round of every run.

    The runs are timed in turn, so that other load on the machine affects all of them alike.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_index in range(warmup + rounds):
        for name, run in runs.items():
            elapsed = time_call(run, device)
            if round_index >= warmup:
                times[name].append(elapsed)
    return times


def timing_rows(times: Mapping[str, Sequence[float]], reference: str | None = None) -> list[dict[str, Any]]:
    """Return a table row for each run: minimum, median and 95th percentile in ms.

    If ``reference`` names a run, a further column is the minimum divided by the minimum of that run.
    """
    table = []
    for name, values in times.items():
        row: dict[str, Any] = {
            "run": name,
            "min ms": 1e3 * min(values),
            "median ms": 1e3 * statistics.median(values),
            "p95 ms": 1e3 * float(np.percentile(values, 95)),
        }
        if reference is not None:
            row[f"/ {reference}"] = min(values) / min(times[reference])
        table.append(row)
    return table


def print_report(table: Sequence[Mapping[str, Any]], path: str | None, device: torch.device) -> None:
    """Print rows as a table. Write the rows and the description of the machine to ``path`` as JSON, if given."""
    print(tabulate([dict(row) for row in table], headers="keys", tablefmt="github", floatfmt=".4g"))
    if path is not None:
        Path(path).write_text(
            json.dumps({"machine": describe_machine(device), "rows": [dict(row) for row in table]}, indent=2) + "\n",
            encoding="utf-8",
        )


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return a description of the machine.

    The description includes measured limits: GFLOP/s of a matrix product and of a convolution of float32 tensors, and
    GB/s read and written by a copy. torch's settings apply: by default, convolutions use TF32 on GPUs that support it.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **{key: round(value, 1) for key, value in _measure_limits(device).items()},
    }


@torch.no_grad()
def _measure_limits(device: torch.device) -> dict[str, float]:
    matrix = torch.randn(1024, 1024, device=device)
    pixels = torch.randn(1, 256, 40, 40, device=device).to(memory_format=torch.channels_last)
    kernel = torch.randn(256, 256, 3, 3, device=device).to(memory_format=torch.channels_last)
    large = torch.zeros(1 << 25, device=device)
    target = torch.zeros_like(large)
    runs = {
        "GEMM GFLOP/s": (lambda: matrix @ matrix, 2 * 1024**3 / 1e9),
        "convolution GFLOP/s": (lambda: torch.conv2d(pixels, kernel, padding=1), 2 * 256 * 256 * 9 * 1600 / 1e9),
        "copy GB/s": (lambda: target.copy_(large), 2 * large.numel() * 4 / 1e9),
    }
    return {name: amount / min(time_interleaved({name: run}, 5, device)[name]) for name, (run, amount) in runs.items()}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")


def gpu_time_and_memory(run: Callable[[], Any], device: torch.device, calls: int = 10) -> dict[str, float]:
    """Return the time of a call on the GPU in ms, without launch overhead, and its peak memory in MiB.

    Memory that was allocated before the call is not counted. Returns an empty dict for other devices.
    """
    if device.type != "cuda":
        return {}
    allocated = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    memory = torch.cuda.max_memory_allocated(device) - allocated
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(calls):
            run()
        synchronize(device)
    microseconds = sum(event.self_device_time_total for event in profiler.key_averages())
    return {"GPU ms": microseconds / 1e3 / calls, "MiB": memory / 2**20}


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
