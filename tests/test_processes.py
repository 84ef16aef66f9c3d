"""Worker processes exit with the run that started them, for every start method."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT

# Samples are larger than the buffer of a pipe, so the worker is blocked on sending the second batch. Without
# prepare_worker, it would then outlive the run; torch itself only ends workers that are idle.
PROGRAM = """
import multiprocessing, sys, time
import deim
from torch.utils.data import DataLoader
from deim.data.loader import prepare_worker

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    samples = [bytes(1 << 20)] * 4
    loader = DataLoader(samples, num_workers=1, persistent_workers=True, worker_init_fn=prepare_worker)
    batches = iter(loader)
    next(batches)
    print(*(worker.pid for worker in batches._workers), flush=True)
    time.sleep(float(sys.argv[2]))
"""


def start(folder: Path, method: str, seconds: float) -> subprocess.Popen:
    program = folder / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(program), method, str(seconds)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


METHODS = pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])


@METHODS
def test_workers_exit_with_the_data_loader(tmp_path: Path, method: str) -> None:
    run = start(tmp_path, method, 0)
    out, _ = run.communicate(timeout=120)
    assert run.returncode == 0
    assert not is_running(int(out))


@METHODS
def test_workers_exit_after_the_run_is_killed(tmp_path: Path, method: str) -> None:
    run = start(tmp_path, method, 600)
    worker = int(run.stdout.readline())
    assert is_running(worker)
    run.kill()
    run.wait(timeout=60)
    limit = time.monotonic() + 60
    while is_running(worker) and time.monotonic() < limit:
        time.sleep(0.1)
    is_left = is_running(worker)
    if is_left:
        psutil.Process(worker).kill()
    assert not is_left
