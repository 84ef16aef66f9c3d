"""Memory, file descriptors and threads do not grow during a long run."""

import os
import time
from pathlib import Path

import pytest

from tests.faults.runs import SETTINGS, all_processes_exit, children, iterations_done, read_output, start, wait_until

ITERATIONS = int(os.environ.get("DEIM_SOAK", "5000"))


def minimum_usage(pid: int) -> tuple[float, ...]:
    """Return the minimum of several samples of :func:`resource_usage`, which excludes transient use by checkpoints."""
    samples = []
    for _ in range(10):
        samples.append(resource_usage(pid))
        time.sleep(0.2)
    return tuple(min(values) for values in zip(*samples, strict=True))


def resource_usage(pid: int) -> tuple[float, int, int]:
    """Return the resident memory in MiB, the file descriptors and the threads of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines())
    return (
        int(status["VmRSS"].split()[0]) / 1024,
        len(list(Path(f"/proc/{pid}/fd").iterdir())),
        int(status["Threads"]),
    )


@pytest.mark.long
def test_resource_usage_over_thousands_of_iterations(shapes: Path, tmp_path: Path) -> None:
    """Run with an evaluation and a checkpoint about every hundred iterations."""
    settings = [f"train.max_iter={ITERATIONS}", f"schedule.epochs={ITERATIONS // 6 + 1}", "train.eval_period=102"]
    process = start(shapes, tmp_path, *SETTINGS, *settings, "train.checkpointer.period=100", "train.log_period=20")
    measured = {}
    for share in (0.2, 0.6, 0.95):
        wait_until(lambda share=share: iterations_done(tmp_path) >= share * ITERATIONS, process, tmp_path, 3600)
        measured[share] = {"main": minimum_usage(process.pid), "worker": minimum_usage(children(process.pid)[0])}
    for who in ("main", "worker"):
        (first, *counts), _, (last, *counts_at_end) = (measured[share][who] for share in (0.2, 0.6, 0.95))
        assert last < first * 1.05 + 20, measured
        assert counts_at_end == counts, measured
    assert process.wait(timeout=600) == 0, read_output(tmp_path)[-3000:]
    assert all_processes_exit(process.pid)
