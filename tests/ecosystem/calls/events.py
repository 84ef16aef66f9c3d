"""Event storage and event writers."""

# The expressions in CALLS use the imports.
# ruff: noqa: F401

import json
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
    has_event_storage,
)

from tests.ecosystem.calls import messages


def make_storage(*scalars: tuple, start: int = 0, **hints: Any) -> EventStorage:
    """Return a storage that contains the given (iteration, name, value)."""
    event_storage = EventStorage(start)
    for iteration, name, value in scalars:
        event_storage.iter = iteration
        event_storage.put_scalar(name, value, **hints)
    return event_storage


LOSSES = tuple((i, "loss", float(v)) for i, v in enumerate((5, 1, 4, 2, 3)))


def apply_to_storage(operation: Any, *scalars: tuple) -> tuple:
    """Apply an operation to a storage; return its result, the latest values and the iteration."""
    event_storage = make_storage(*scalars)
    with event_storage:
        result = operation(event_storage)
    return result, event_storage.latest(), event_storage.iter, event_storage.smoothing_hints()


def put_in_scopes(event_storage: EventStorage) -> None:
    with event_storage.name_scope("outer/"):
        event_storage.put_scalar("a", 1)
        with event_storage.name_scope("inner"):
            event_storage.put_scalars(b=2, cur_iter=7)
    event_storage.put_scalar("c", 3)


def nest_storages() -> list:
    with EventStorage(1) as outer:
        with EventStorage(2) as inner:
            checks = [get_event_storage() is inner]
        checks.append(get_event_storage() is outer)
        checks.append(has_event_storage())
    return [*checks, has_event_storage()]


def json_lines(*rounds: tuple, smooth: bool = True, **options: Any) -> list[str]:
    """Return the content of the file after each round of (iteration, name, value) is stored and written."""
    path = Path(tempfile.mkdtemp()) / "metrics.json"
    path.write_text('{"before": 1}\n')
    writer = JSONWriter(str(path), **options)
    with EventStorage() as event_storage:
        for scalars in rounds:
            for iteration, name, value in scalars:
                event_storage.iter = iteration
                event_storage.put_scalar(name, value, smoothing_hint=smooth)
            writer.write()
    writer.close()
    return path.read_text().splitlines()


def printed_lines(
    iteration: int = 1, max_iter: int | None = 10, window: int = 20, writes: int = 1, **scalars: Any
) -> list[str]:
    """Return the lines logged for scalars with the given values in the last iterations."""
    printer = CommonMetricPrinter(max_iter, window) if max_iter is not None else CommonMetricPrinter(window_size=window)
    with messages("detectron2.utils.events") as lines, EventStorage() as event_storage:
        for name, values in scalars.items():
            for offset, value in enumerate(reversed(values)):
                event_storage.put_scalar(name.replace("__", "/"), value, cur_iter=max(iteration - offset, 0))
        event_storage.iter = iteration
        for _ in range(writes):
            printer.write()
            event_storage.iter += 1
            time.sleep(0.002)
    return [_without_clock(line, keep_eta="time" in scalars) for line in lines]


def _without_clock(line: str, keep_eta: bool) -> str:
    """Remove the ETA unless ``keep_eta``: without the scalar "time", it is measured and varies."""
    line = re.sub(r"max_mem: \d+M", "max_mem", line)
    return line if keep_eta else re.sub(r"eta: [0-9:]+", "eta", line)


def stored_eta() -> tuple:
    with EventStorage(3) as event_storage:
        event_storage.put_scalar("time", 2.0)
        CommonMetricPrinter(10).write()
    return event_storage.latest(), event_storage.smoothing_hints()


def tensorboard_scalars(*scalars: tuple) -> list:
    """Return the scalars in the TensorBoard event file."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tempfile.mkdtemp()
    writer = TensorboardXWriter(folder, window_size=3)
    with make_storage(*scalars):
        writer.write()
        writer.write()
    writer.close()
    accumulator = EventAccumulator(folder).Reload()
    return [
        (tag, [(event.step, event.value) for event in accumulator.Scalars(tag)])
        for tag in accumulator.Tags()["scalars"]
    ]


def count_tensorboard_files(**options: Any) -> tuple:
    """Return the number of files before the first write, and after closing a writer that wrote nothing."""
    folder = Path(tempfile.mkdtemp())
    writer = TensorboardXWriter(str(folder), **options)
    num_files = len(list(folder.iterdir()))
    writer.close()
    return num_files, len(list(folder.iterdir()))


VALUES = (
    "1",
    "1.5",
    "torch.tensor(2.0)",
    "torch.tensor([2.0])",
    "True",
    "float('nan')",
    "float('inf')",
    "'3'",
    "'x'",
    "None",
    "[1]",
)
TWO_ROUNDS = "((0, 'loss', 4.0), (0, 'lr', 0.1)), ((1, 'loss', 2.0), (1, 'lr', 0.2))"

CALLS = [
    *(f"make_storage((0, 'a', {v})).latest()" for v in VALUES),
    "make_storage(*LOSSES).latest(), make_storage(*LOSSES).smoothing_hints()",
    *(f"make_storage(*LOSSES).latest_with_smoothing_hint({w})" for w in ("", "1", "2", "3", "4", "100", "window_size=3", "0")),
    "make_storage(*LOSSES, smoothing_hint=False).latest_with_smoothing_hint()",
    *(f"make_storage(*LOSSES).count_samples('loss', {w})" for w in ("1", "2", "5", "6", "0", "-1")),
    "make_storage((3, 'a', 1), (9, 'a', 2), (10, 'a', 3)).count_samples('a', 5)",
    "make_storage((9, 'a', 1), (3, 'a', 2), (10, 'a', 3)).count_samples('a', 5)",
    "make_storage(*LOSSES).count_samples('loss')",
    "make_storage(*LOSSES).count_samples('nothing')",
    "make_storage(*LOSSES).history('loss').values()",
    "make_storage(*LOSSES).history('nothing')",
    "list(make_storage(*LOSSES).histories())",
    "make_storage(start=5).iter, make_storage(start=5.7).iter, EventStorage().iter",
    "make_storage(start='x').iter",
    "apply_to_storage(lambda s: s.step(), *LOSSES)",
    "apply_to_storage(lambda s: setattr(s, 'iter', 7.9))",
    "apply_to_storage(lambda s: setattr(s, 'iter', 'x'))",
    "apply_to_storage(lambda s: s.put_scalar('a', 1, cur_iter=9), *LOSSES)",
    "apply_to_storage(lambda s: s.put_scalar('a', 1, False, 9), *LOSSES)",
    "apply_to_storage(lambda s: s.put_scalar('loss', 1, smoothing_hint=False), *LOSSES)",
    "apply_to_storage(lambda s: s.put_scalar('loss', 1, 0), *LOSSES)",
    "apply_to_storage(lambda s: s.put_scalars(a=1, b=2))",
    "apply_to_storage(lambda s: s.put_scalars(a=1, b=2, smoothing_hint=False, cur_iter=4))",
    "apply_to_storage(lambda s: s.put_scalars(1))",
    "apply_to_storage(lambda s: s.put_scalar(3, 1))",
    "apply_to_storage(put_in_scopes)",
    "nest_storages()",
    "get_event_storage()",
    "has_event_storage()",
    "EventWriter().write()",
    "EventWriter().close()",
    f"json_lines({TWO_ROUNDS})",
    f"json_lines({TWO_ROUNDS}, window_size=1)",
    f"json_lines({TWO_ROUNDS}, smooth=False)",
    "json_lines(((5, 'b', 1.0), (5, 'a', float('nan')), (3, 'c', 2.0)))",
    "json_lines(((5, 'b', 1.0),), ((4, 'a', 1.0),), ((5, 'a', 2.0),), ((6, 'a', 3.0),))",
    "json_lines((), ())",
    "json_lines(((0, 'a', 1),), (), ((0, 'b', 1),))",
    "json_lines(((0, 'a/b', float('inf')),))",
    "JSONWriter('/no/such/folder/metrics.json')",
    "JSONWriter(None)",
    "JSONWriter(tempfile.mkdtemp() + '/x.json', 20).write()",
    "printed_lines(loss=[3.0, 1.0, 2.0])",
    "printed_lines(total_loss=[3.14159, 1.0], loss_bbox=[123456.0], lr=[0.000123456], other=[5.0])",
    "printed_lines(max_iter=None, loss=[3.0])",
    "printed_lines(max_iter=None, time=[0.25, 0.5], data_time=[0.001, 0.002, 0.5])",
    "printed_lines(time=[0.25, 0.5], data_time=[0.001, 0.002, 0.5])",
    "printed_lines(iteration=7, max_iter=100000, time=[3.0] * 5, lr=[1e-3, 1e-4])",
    "printed_lines(iteration=10, max_iter=10, loss=[1.0])",
    "printed_lines(iteration=9, max_iter=10, loss=[1.0], time=[1.0])",
    "printed_lines(iteration=50, loss=list(range(50)), window=5, data_time=list(range(50)))",
    "printed_lines(rank_data_time=[1.0], data_time=[2.0])",
    "printed_lines(**{'[metric] a': [1.0], 'x[metric]loss': [2.0], 'loss__b': [3.0]})",
    "printed_lines(loss=[float('nan')])",
    "printed_lines(writes=3, max_iter=5000)",
    "printed_lines(writes=3, max_iter=5000, loss=[1.0])",
    "printed_lines()",
    "stored_eta()",
    "CommonMetricPrinter(10).write()",
    "CommonMetricPrinter(max_iter=10, window_size=3).close()",
    "tensorboard_scalars((0, 'a', 1.0), (1, 'a', 3.0), (1, 'b/c', 2.0))",
    "tensorboard_scalars((0, 'a', float('nan')))",
    "count_tensorboard_files()",
    "count_tensorboard_files(flush_secs=3)",
    "json.loads(json_lines(((0, 'a', torch.tensor(1.25)),))[1])",
]  # fmt: skip
