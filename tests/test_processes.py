"""Worker processes exit with the run that started them, for every start method."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT

PROGRAM = """
import multiprocessing, sys, time
import deim
from torch.utils.data import DataLoader
from deim.data.loader import prepare_worker

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    loader = DataLoader(list(range(4)), num_workers=1, persistent_workers=True, worker_init_fn=prepare_worker)
    batches = list(loader)
    print(len(batches), *(worker.pid for worker in loader._iterator._workers), flush=True)
    time.sleep(float(sys.argv[2]))
"""


def start(folder: Path, method: str, seconds: float) -> subprocess.Popen:
    program = folder / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(program), method, str(seconds)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


METHODS = pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])


@METHODS
def test_workers_exit_with_the_data_loader(tmp_path: Path, method: str) -> None:
    out, _ = start(tmp_path, method, 0).communicate(timeout=120)
    assert out.startswith("4 ")


@METHODS
def test_workers_exit_after_the_run_is_killed(tmp_path: Path, method: str) -> None:
    run = start(tmp_path, method, 600)
    count, worker = (int(word) for word in run.stdout.readline().split())
    assert count == 4
    assert psutil.pid_exists(worker)
    run.kill()
    run.wait(timeout=60)
    limit = time.monotonic() + 60
    while psutil.pid_exists(worker) and psutil.Process(worker).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < limit
        time.sleep(0.1)
