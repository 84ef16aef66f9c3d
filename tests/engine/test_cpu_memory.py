"""Training on a CPU keeps freed memory instead of returning it to the system."""

import platform
import subprocess
import sys

import pytest
import torch

from deim.engine import cpu_memory

FAULTS_OF_LARGE_BLOCKS = """
import resource
import torch
from deim.engine.cpu_memory import keep_freed_memory

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what glibc's malloc does")
def test_large_blocks_are_mapped_once() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS_OF_LARGE_BLOCKS], capture_output=True, text=True, check=True)
    before, within, after = map(int, done.stdout.split())
    assert within * 10 < min(before, after)


def test_malloc_is_unchanged_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_memory, "_set_thresholds", lambda *_: pytest.fail("malloc was told something"))
    with cpu_memory.keep_freed_memory(torch.device("cuda")):
        pass
