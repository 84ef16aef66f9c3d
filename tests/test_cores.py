"""Threads of torch follow the cores that other processes leave free."""

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
    """Number of threads of torch, of which a process with four cores has four; nothing is set in truth."""
    now = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: now.__setitem__(0, count))
    monkeypatch.setattr(cores, "available_cores", lambda: [0, 1, 2, 3])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return now


class Clock:
    """Time that passes, in which other processes use some cores."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = self.busy = 0.0
        monkeypatch.setattr(cores, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(cores._ThreadCountHook, "_busy_seconds", lambda hook: self.busy)

    def pass_by(self, seconds: float, cores_in_use: float) -> None:
        self.now += seconds
        self.busy += seconds * cores_in_use


def test_threads_follow_the_load(monkeypatch: pytest.MonkeyPatch, threads: list[int]) -> None:
    clock, model = Clock(monkeypatch), nn.Identity()
    cores.limit_threads_to_free_cores(model)
    for in_use, wanted in ((0.1, 4), (1.0, 3), (2.6, 1), (9.0, 1), (0.4, 4)):
        clock.pass_by(2.0, in_use)
        model(torch.zeros(1))
        assert threads == [wanted], in_use


def test_one_look_in_a_second(monkeypatch: pytest.MonkeyPatch, threads: list[int]) -> None:
    clock, model = Clock(monkeypatch), nn.Identity()
    cores.limit_threads_to_free_cores(model)
    clock.pass_by(0.5, 3.0)
    model(torch.zeros(1))
    assert threads == [4]
    clock.pass_by(0.6, 3.0)
    model(torch.zeros(1))
    assert threads == [1]


def test_a_number_that_the_user_sets_is_kept(monkeypatch: pytest.MonkeyPatch, threads: list[int]) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    model = nn.Identity()
    cores.limit_threads_to_free_cores(model)
    assert not model._forward_pre_hooks


def test_other_processes_are_seen() -> None:
    seen = cores._ThreadCountHook()
    started = seen._busy_seconds()
    busy = subprocess.run(
        [sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"], check=True, timeout=120
    )
    assert busy.returncode == 0
    # Cores tick in hundredths of a second.
    assert seen._busy_seconds() - started > 0.4
    assert set(cores.available_cores()) <= set(range(os.cpu_count() or 1))
