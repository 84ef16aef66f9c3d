"""A preempted SLURM job is requeued and resumes its run. The tests use submitit's local executor instead of SLURM."""

import os
import signal
import time
from pathlib import Path

import pytest

from deim.errors import ConfigError
from deim.jobs.slurm import TrainingJob, submit
from tests.commands import tool, train_arguments, train_net
from tests.faults.runs import SETTINGS, iterations_done, scalars

submitit = pytest.importorskip("submitit")


def test_command_line_of_each_node() -> None:
    job = TrainingJob(["--config-file", "x"], gpus_per_node=8)
    assert job.command_line(2, 1, "first") == [
        *("--resume", "--num-gpus=8", "--num-machines=2", "--machine-rank=1", "--dist-url=tcp://first:29500"),
        *("--config-file", "x"),
    ]
    assert job.command_line(1, 0, "first") == ["--resume", "--num-gpus=8", "--dist-url=auto", "--config-file", "x"]
    assert TrainingJob(["x"]).command_line(1, 0, "first") == ["--resume", "--num-gpus=1", "x"]


@pytest.mark.long
def test_preempted_job_is_requeued_and_resumes_the_run(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    settings = [*SETTINGS, "train.checkpointer.period=1000"]
    assert train_net(shapes, whole, *settings).returncode == 0
    job = submit(
        TrainingJob(train_arguments(shapes, pieces, *settings)), str(tmp_path / "job"), "local", timeout_min=60
    )
    limit = time.monotonic() + 200
    while iterations_done(pieces) < 8:
        assert time.monotonic() < limit, job.stderr()
        time.sleep(0.05)
    (task,) = processes_of(f"submitit.core._submit {tmp_path}/job")
    os.kill(task, signal.SIGUSR2)  # the signal that submitit requests from SLURM before a job ends
    job.result()
    log = (pieces / "log.txt").read_text(encoding="utf-8")
    assert "Received SIGTERM: exiting after iteration" in log
    assert log.count("Starting training from iteration") == 2
    assert scalars(whole)[-1] == scalars(pieces)[-1]


def processes_of(command: str) -> list[int]:
    lines = {
        int(p.parent.name): p.read_bytes().replace(b"\0", b" ").decode() for p in Path("/proc").glob("[0-9]*/cmdline")
    }
    return [pid for pid, line in lines.items() if command in line]


def test_several_nodes_on_this_machine_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot submit to 'local': LocalExecutor can use only one node"):
        submit(TrainingJob([]), str(tmp_path), "local", nodes=2)


def test_missing_slurm_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="cannot submit to 'slurm'"):
        submit(TrainingJob([]), str(tmp_path), "slurm")
    done = tool("slurm_train.py", "--cluster=slurm", f"--folder={tmp_path}", "--", "--config-file", "x")
    assert done.returncode == 2
    assert "cannot submit to 'slurm'" in done.stderr
