"""Time of a training step by group of operators.

The operators of :data:`GROUPS` are compute kernels, so their total time is a lower bound for the step. All other
operators are in the group "others".
"""

from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.training import PhaseTimer, our_step, random_batch
from deim.measurement.timing import print_report

# {group: substrings of the names of its operators}
GROUPS = {
    "convolutions": ("convolution",),
    "batch normalization": ("batch_norm", "BatchNorm"),  # torch's, and ours fused with the activation
    "attention": ("scaled_dot_product", "flash_attention", "efficient_attention"),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
}
_WARM_UP = 3
_TOP_OPERATORS = 8


def measure(
    recipe: str, batch: tuple[int, int, int], rounds: int, device: str, amp: str | None
) -> dict[str, dict[str, float]]:
    """Profile training steps of a recipe.

    Args:
        recipe: name of the recipe.
        batch: (images, objects per image, side of the square images in pixels).
        rounds: number of profiled steps.
        device: such as "cpu" or "cuda".
        amp: dtype of mixed precision, such as "bfloat16", or None.

    Returns:
        {group: {operator: milliseconds per step}} for :data:`GROUPS` and "others".
    """
    timer = PhaseTimer(torch.device(device))
    torch.manual_seed(0)
    step = our_step(recipe, [], None, random_batch(recipe, *batch), amp, timer)
    on_cuda = timer.device.type == "cuda"
    with step.training_context():
        for _ in range(_WARM_UP):
            step()
        with profile(activities=[ProfilerActivity.CUDA if on_cuda else ProfilerActivity.CPU]) as profiler:
            for _ in range(rounds):
                step()
    times: dict[str, dict[str, float]] = {group: {} for group in [*GROUPS, "others"]}
    for event in profiler.key_averages():
        microseconds = event.self_device_time_total if on_cuda else event.self_cpu_time_total
        times[_group_of(event.key)][event.key] = microseconds / 1e3 / rounds
    return times


def _group_of(operator: str) -> str:
    return next(
        (name for name, substrings in GROUPS.items() if any(substring in operator for substring in substrings)),
        "others",
    )


def run(recipe: str, batch: tuple[int, int, int], rounds: int, device: str, amp: str | None, path: str | None) -> None:
    """Print the time of each group per step, and the slowest operators of the group "others".

    If ``path`` is given, write the rows to it as JSON. For the other arguments, see :func:`measure`.
    """
    times = measure(recipe, batch, rounds, device, amp)
    groups = {name: sum(operators.values()) for name, operators in times.items()}
    total = sum(groups.values())
    slowest = dict(Counter(times["others"]).most_common(_TOP_OPERATORS))
    rows = [{"kernels": name, "ms": value, "share": value / total} for name, value in (groups | slowest).items()]
    print_report(rows, path, torch.device(device))
