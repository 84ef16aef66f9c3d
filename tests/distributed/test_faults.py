"""Runs of several ranks: a failed rank ends all ranks, a rank without objects blocks none, and runs can be restarted."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from deim.engine.launch import launch
from deim.errors import ConfigError
from deim.processes import PREEMPTED_EXIT_STATUS
from tests.commands import train_arguments, train_net
from tests.conftest import ROOT
from tests.faults.runs import (
    SETTINGS,
    all_processes_exit,
    assert_same_run,
    children,
    iterations_done,
    kill,
    members,
    read_output,
    scalars,
    start,
    wait_until,
)

pytestmark = pytest.mark.usefixtures("several_processes")
TWO = ("--num-gpus=2", "--dist-url=auto")
FAILING_MODEL = "model._target_=tests.distributed.failing_detector.FailingDetector"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1")


@pytest.mark.parametrize("torchrun", [False, True])
def test_more_processes_than_gpus_are_refused(torchrun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    if torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    option = "--nproc-per-node" if torchrun else "--num-gpus"
    with pytest.raises(ConfigError, match=f"^{option} 2, but this machine has 1"):
        launch(pytest.fail, Namespace(num_gpus=2))


def test_error_of_one_rank_ends_all_ranks_with_its_traceback(shapes: Path, tmp_path: Path) -> None:
    process = start(shapes, tmp_path, *TWO, *SETTINGS, FAILING_MODEL, environment={"DETECTOR_FAILURE": "raise:1:3"})
    assert process.wait(timeout=120) == 1
    assert "ArithmeticError: failure of rank 1" in read_output(tmp_path)
    assert "in forward" in read_output(tmp_path)
    assert all_processes_exit(process.pid)


def test_killed_rank_ends_all_ranks_and_is_named(shapes: Path, tmp_path: Path) -> None:
    process = start(shapes, tmp_path, *TWO, *SETTINGS, FAILING_MODEL, environment={"DETECTOR_FAILURE": "kill:1:3"})
    wait_until(lambda: "Starting training" in read_output(tmp_path), process, tmp_path)
    assert process.wait(timeout=60) == 2, "all ranks end within a minute of the start of training"
    assert "rank 1 was killed by SIGKILL" in read_output(tmp_path)
    assert all_processes_exit(process.pid)


def test_ranks_end_with_the_process_that_started_them(shapes: Path, tmp_path: Path) -> None:
    process = start(shapes, tmp_path, *TWO, *SETTINGS, "schedule.epochs=1000")
    wait_until(lambda: iterations_done(tmp_path) > 0, process, tmp_path)
    assert len(members(process.pid)) >= 5, "a launcher, and two ranks with a worker each"
    kill(process)
    assert all_processes_exit(process.pid), members(process.pid)


@pytest.mark.long
def test_run_with_a_killed_rank_is_resumed(shapes: Path, tmp_path: Path) -> None:
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    settings = (*TWO, *SETTINGS, "schedule.epochs=6", "schedule.dense_epochs=[1,2]")
    assert train_net(shapes, whole, *settings).returncode == 0
    for done, rank in ((8, 0), (17, 1), (25, 0)):
        process = start(shapes, pieces, "--resume", *settings)
        wait_until(lambda done=done: iterations_done(pieces) >= done, process, pieces)
        os.kill(ranks_of(process.pid)[rank], signal.SIGKILL)
        assert process.wait(timeout=60) == 2
        assert all_processes_exit(process.pid)
    assert train_net(shapes, pieces, "--resume", *settings).returncode == 0
    assert_same_run(whole, pieces)


def ranks_of(launcher: int) -> list[int]:
    """Return the process ids of the ranks, in ascending order."""
    commands = members(launcher)
    return sorted(pid for pid in children(launcher) if "spawn_main" in commands.get(pid, ""))


@pytest.mark.long
def test_preemption_of_one_rank_ends_all_ranks(shapes: Path, tmp_path: Path) -> None:
    """Send the signal to one rank only."""
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    settings = (*TWO, *SETTINGS, "train.checkpointer.period=1000", "schedule.epochs=6", "schedule.dense_epochs=[1,2]")
    assert train_net(shapes, whole, *settings).returncode == 0
    process = start(shapes, pieces, *settings)
    wait_until(lambda: iterations_done(pieces) >= 8, process, pieces)
    os.kill(ranks_of(process.pid)[-1], signal.SIGTERM)
    assert process.wait(timeout=60) == PREEMPTED_EXIT_STATUS, read_output(pieces)[-3000:]
    (iteration,) = set(re.findall(r"Received SIGTERM: exiting after iteration (\d+)", read_output(pieces)))
    assert (pieces / "last_checkpoint").read_text(encoding="utf-8") == f"model_{int(iteration):07d}.pth"
    assert train_net(shapes, pieces, "--resume", *settings).returncode == 0
    assert_same_run(whole, pieces, ignored_iteration=int(iteration))


@pytest.mark.long
def test_run_restarted_by_torchrun_continues_from_its_checkpoint(shapes: Path, tmp_path: Path) -> None:
    """The command has no ``--resume``: torchrun restarts a run with the same command."""
    process = start(
        shapes,
        tmp_path,
        *SETTINGS,
        FAILING_MODEL,
        command=TORCHRUN,
        environment={"DETECTOR_FAILURE": "kill_first:1:14"},
    )
    assert process.wait(timeout=200) == 0, read_output(tmp_path)[-3000:]
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "Starting training from iteration 0" in log
    assert "Starting training from iteration 10" in log
    assert iterations_done(tmp_path) == 49
    assert all_processes_exit(process.pid)


@pytest.mark.long
def test_non_finite_loss_ends_all_ranks(shapes: Path, tmp_path: Path) -> None:
    done = train_net(
        shapes,
        tmp_path,
        *TWO,
        *SETTINGS,
        "optimizer.lr=1e30",
        "schedule.warmup_iters=0",
        "train.clip_grad.enabled=false",
    )
    assert done.returncode == 2, done.stderr
    assert "NaN/Inf loss or gradient at iteration" in done.stderr
    assert list(tmp_path.glob("non_finite_*_rank?.pth"))


def write_subset(shapes: Path, folder: Path, split: str, kept: slice, without_objects: tuple[int, ...] = ()) -> Path:
    """Write an annotation file of the images in ``kept``, and return its path.

    Args:
        without_objects: positions in ``kept`` of the images whose annotations are removed.
    """
    content = json.loads((shapes / "annotations" / f"instances_{split}.json").read_text(encoding="utf-8"))
    content["images"] = content["images"][kept]
    ids = [image["id"] for number, image in enumerate(content["images"]) if number not in without_objects]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    path = folder / f"{split}_{len(content['images'])}_{len(ids)}.json"
    path.write_text(json.dumps(content))
    return path


def test_rank_without_objects_blocks_no_other_rank(shapes: Path, tmp_path: Path) -> None:
    """Without shuffling, the second rank gets the last two images of each four, which have no objects."""
    empty = tuple(number for number in range(24) if number % 4 >= 2)
    annotations = write_subset(shapes, tmp_path, "train", slice(24), empty)
    settings = ["+dataloader.train.shuffle=false", f"dataloader.train.dataset.json_file={annotations}"]
    done = train_net(shapes, tmp_path / "out", *TWO, *SETTINGS, *settings, "train.max_iter=6", "train.eval_period=0")
    assert done.returncode == 0, done.stderr
    assert iterations_done(tmp_path / "out") == 7


@pytest.mark.long
@pytest.mark.parametrize("images", [1, 5])
def test_each_image_is_evaluated_once_by_any_number_of_ranks(images: int, shapes: Path, tmp_path: Path) -> None:
    """Evaluate with four ranks: five images, and one image, which leaves three ranks without any."""
    annotations = write_subset(shapes, tmp_path, "val", slice(images))
    test = [f"dataloader.test.dataset.json_file={annotations}", "dataloader.test.dataset.names=some"]
    assert train_net(shapes, tmp_path / "run", *SETTINGS, *test, "train.max_iter=4").returncode == 0
    weights = f"train.init_checkpoint={tmp_path}/run/model_final.pth"
    rows = []
    for name, processes in (("one", ()), ("four", ("--num-gpus=4", "--dist-url=auto"))):
        done = train_net(shapes, tmp_path / name, "--eval-only", *processes, *test, weights)
        assert done.returncode == 0, done.stderr
        rows.append(next(line for line in reversed(done.stdout.splitlines()) if "copypaste: " in line))
    assert rows[0].split("copypaste: ")[1] == rows[1].split("copypaste: ")[1]


@pytest.mark.long
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="creates network namespaces, which needs root and ip"
)
def test_two_machines(shapes: Path, tmp_path: Path) -> None:
    """Two network namespaces, connected by a virtual cable, act as two machines. The losses equal those on one machine."""
    local, remote = tmp_path / "local", tmp_path / "remote"
    settings = [*SETTINGS, "train.max_iter=8", "train.eval_period=0"]
    assert train_net(shapes, local, *TWO, *settings).returncode == 0
    names = [f"deim{os.getpid()}{side}" for side in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for number, name in enumerate(names, 1):
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "cable")
            for device in ("cable", "lo"):
                ip("-n", name, "link", "set", device, "up")
        machines = [
            subprocess.Popen(
                [
                    *("ip", "netns", "exec", name, sys.executable, "tools/train_net.py"),
                    *train_arguments(
                        shapes,
                        remote,
                        *("--num-machines=2", f"--machine-rank={rank}", "--dist-url=tcp://10.77.0.1:29511"),
                        *settings,
                    ),
                ],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "cable"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, name in enumerate(names)
        ]
        for machine in machines:
            _, errors = machine.communicate(timeout=200)
            assert machine.returncode == 0, errors
    finally:
        for name in names:
            ip("netns", "delete", name)
    assert scalars(local) == scalars(remote)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
