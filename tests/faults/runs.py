"""Small runs for kill tests, with every kind of state that a checkpoint must restore."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch

from tests.commands import RECIPE, train_arguments
from tests.conftest import ROOT

# 24 images in batches of 4: six iterations per epoch. The run passes through all stages of the schedule, and the final
# epochs start from the best checkpoint.
SETTINGS = [
    "schedule.epochs=8",
    "schedule.dense_epochs=[2,4]",
    "schedule.flat_epochs=2",
    "schedule.no_aug_epochs=2",
    "schedule.final_from_best=true",
    "schedule.final_ema_decay=0.9",
    "schedule.eval_epochs=1",
    "train.checkpointer.period=5",
    "train.model_ema.decay=0.9",
    "train.model_ema.warmup_iters=5",
    "dataloader.train.num_workers=1",
    "train.log_period=4",
]
LAST_ITERATION = 47
# Half of the epochs, for tests that need few iterations.
FEW_EPOCHS = [
    "schedule.epochs=4",
    "schedule.dense_epochs=[1,2]",
    "schedule.flat_epochs=1",
    "schedule.no_aug_epochs=1",
]
# Durations, the only metrics that differ between two equal runs.
TIMING_METRICS = {"time", "data_time", "rank_data_time", "eta_seconds"}


def start(
    shapes: Path,
    output: Path,
    *arguments: str,
    config: str = RECIPE,
    command: Sequence[str] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.Popen:
    """Start ``tools/train_net.py`` as the leader of a new session, which identifies its processes."""
    line = [sys.executable, *command, "tools/train_net.py", *train_arguments(shapes, output, *arguments, config=config)]
    output.mkdir(exist_ok=True)
    with open(output / "stdout.txt", "ab") as out, open(output / "stderr.txt", "ab") as err:
        return subprocess.Popen(
            line,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=out,
            stderr=err,
            start_new_session=True,
        )


def read_output(output: Path) -> str:
    """Return the output of all runs in a folder."""
    return (output / "stdout.txt").read_text(encoding="utf-8") + (output / "stderr.txt").read_text(encoding="utf-8")


def wait_until(condition: Callable[[], bool], process: subprocess.Popen, output: Path, seconds: float = 600) -> None:
    """Wait until a condition holds. Fail if the process ends first, or after ``seconds``."""
    limit = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, read_output(output)[-3000:]
        assert time.monotonic() < limit, read_output(output)[-3000:]
        time.sleep(0.005)


def iterations_done(output: Path) -> int:
    """Return the number of iterations recorded in ``metrics.json``. The evaluation after the last one counts as one more."""
    file = output / "metrics.json"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return max((json.loads(line)["iteration"] + 1 for line in lines if line.endswith("}")), default=0)


def members(session: int) -> dict[int, str]:
    """Return {pid: command line} of the running processes of a session."""
    processes = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                processes[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue  # the process has ended meanwhile
    return processes


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text(encoding="utf-8").split()] if listed.exists() else []


def all_processes_exit(session: int, seconds: float = 30) -> bool:
    """Return True if all processes of a session end in time."""
    limit = time.monotonic() + seconds
    while members(session):
        if time.monotonic() > limit:
            return False
        time.sleep(0.1)
    return True


def kill(process: subprocess.Popen, number: int = signal.SIGKILL) -> int:
    """Signal the main process of a run, wait until it ends, and return its exit status."""
    process.send_signal(number)
    return process.wait(timeout=90)


def scalars(output: Path, name: str = "metrics.json") -> list[dict]:
    """Return the lines of ``metrics.json`` without durations."""
    lines = [json.loads(line) for line in (output / name).read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMING_METRICS} for line in lines]


def assert_equal_to_the_bit(actual: object, expected: object, path: str = "") -> None:
    if isinstance(actual, torch.Tensor):
        assert isinstance(expected, torch.Tensor), path
        assert torch.equal(actual, expected), path
    elif isinstance(actual, dict):
        assert isinstance(expected, dict), path
        assert actual.keys() == expected.keys(), path
        for key, value in actual.items():
            assert_equal_to_the_bit(value, expected[key], f"{path}.{key}")
    elif isinstance(actual, list | tuple):
        assert isinstance(expected, list | tuple), path
        assert len(actual) == len(expected), path
        for index, value in enumerate(actual):
            assert_equal_to_the_bit(value, expected[index], f"{path}[{index}]")
    else:
        assert actual == expected, path


def assert_same_run(uninterrupted: Path, resumed: Path, ignored_iteration: int | None = None) -> None:
    """Assert that two runs have the same weights, EMA weights, optimizer and hook states, and metrics.

    Args:
        uninterrupted, resumed: output folders of the runs.
        ignored_iteration: iteration whose metrics are not compared.
    """
    first, second = (torch.load(folder / "model_final.pth", weights_only=True) for folder in (uninterrupted, resumed))
    assert_equal_to_the_bit(first, second)
    metrics = [
        [line for line in scalars(folder) if line["iteration"] != ignored_iteration]
        for folder in (uninterrupted, resumed)
    ]
    # compare as text, since NaN != NaN
    assert json.dumps(metrics[0]) == json.dumps(metrics[1])
