"""Training on a CPU keeps freed memory instead of returning it to the system."""

import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from deim.engine.performance import cpu_memory

FAULTS_OF_LARGE_BLOCKS = """
import resource
import torch
from deim.engine.performance.cpu_memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(64 * 2**18)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
with keep_freed_memory(torch.device("cpu")):
    faults()
    print(before, faults(), end=" ")
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tests the malloc of glibc")
def test_large_blocks_are_mapped_once() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS_OF_LARGE_BLOCKS], capture_output=True, text=True, check=True)
    before, within, after = map(int, done.stdout.split())
    assert within * 10 < min(before, after)


def test_malloc_is_unchanged_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_memory, "_raise_thresholds", lambda *_: pytest.fail("the thresholds were changed"))
    with cpu_memory.keep_freed_memory(torch.device("cuda")):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is called only on Linux")
@pytest.mark.parametrize("limit", [2**31 - 1, 32 * 2**20, 0])
def test_rejected_threshold(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older glibc rejects mmap thresholds above 32 MiB; the limit of 0 rejects all."""
    accepted = []

    def mallopt(option: int, value: int) -> int:
        if option == cpu_memory._MMAP_THRESHOLD and value > limit:
            return 0
        accepted.append((option, value))
        return 1

    libc = SimpleNamespace(mallopt=mallopt, malloc_trim=lambda padding: 1)
    monkeypatch.setattr(cpu_memory.ctypes, "CDLL", lambda name: libc)
    with cpu_memory.keep_freed_memory(torch.device("cpu")):
        raised = dict(accepted)
    if limit == 0:
        assert not accepted
    else:
        assert raised == {cpu_memory._MMAP_THRESHOLD: limit, cpu_memory._TRIM_THRESHOLD: 2**31 - 1}
        assert accepted[2:] == [(cpu_memory._MMAP_THRESHOLD, 32 * 2**20), (cpu_memory._TRIM_THRESHOLD, 64 * 2**20)]
