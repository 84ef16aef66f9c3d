"""The number of torch threads follows the number of free cores."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from deim import cores


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace torch's thread count by a list of one number, initially 4, on a machine with four cores."""
    current = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: current[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: current.__setitem__(0, count))
    monkeypatch.setattr(cores, "available_cores", lambda: [0, 1, 2, 3])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return current


class Clock:
    """Fake clock; while its time advances, other processes use some cores."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.current = self.busy = 0.0
        monkeypatch.setattr(cores, "time", SimpleNamespace(monotonic=lambda: self.current))
        monkeypatch.setattr(cores._ThreadCountHook, "_busy_seconds", lambda hook: self.busy)

    def advance(self, seconds: float, cores_in_use: float) -> None:
        self.current += seconds
        self.busy += seconds * cores_in_use


def test_thread_count_follows_the_load(monkeypatch: pytest.MonkeyPatch, threads: list[int]) -> None:
    clock, model = Clock(monkeypatch), nn.Identity()
    cores.limit_threads_to_free_cores(model)
    for cores_in_use, expected in ((0.1, 4), (1.0, 3), (2.6, 1), (9.0, 1), (0.4, 4)):
        clock.advance(2.0, cores_in_use)
        model(torch.zeros(1))
        assert threads == [expected], cores_in_use


def test_thread_count_changes_at_most_once_per_second(monkeypatch: pytest.MonkeyPatch, threads: list[int]) -> None:
    clock, model = Clock(monkeypatch), nn.Identity()
    cores.limit_threads_to_free_cores(model)
    clock.advance(0.5, 3.0)
    model(torch.zeros(1))
    assert threads == [4]
    clock.advance(0.6, 3.0)
    model(torch.zeros(1))
    assert threads == [1]


def test_thread_count_set_by_the_user_is_kept(monkeypatch: pytest.MonkeyPatch, threads: list[int]) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    model = nn.Identity()
    cores.limit_threads_to_free_cores(model)
    assert not model._forward_pre_hooks


def test_busy_time_of_other_processes_is_measured() -> None:
    hook = cores._ThreadCountHook()
    before = hook._busy_seconds()
    busy = subprocess.run(
        [sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"], check=True, timeout=120
    )
    assert busy.returncode == 0
    # Cores tick in hundredths of a second.
    assert hook._busy_seconds() - before > 0.4


def test_available_cores_are_at_most_those_of_the_machine() -> None:
    assert 1 <= len(set(cores.available_cores())) <= (os.cpu_count() or 1)
