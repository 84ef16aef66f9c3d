"""A run killed at any point and resumed is bit-identical to an uninterrupted run, and leaves no processes behind."""

import functools
import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deim.processes import PREEMPTED_EXIT_STATUS
from tests.commands import TASK_SETTINGS, TASKS, train_net
from tests.faults.kill_points import KILL_POINTS
from tests.faults.runs import (
    FEW_EPOCHS,
    LAST_ITERATION,
    SETTINGS,
    all_processes_exit,
    assert_same_run,
    children,
    iterations_done,
    kill,
    members,
    read_output,
    start,
    wait_until,
)
from tests.faults.test_bad_input import expect_error

UninterruptedRun = Callable[..., Path]


@pytest.fixture(scope="module")
def shapes(annotated_shapes: Path) -> Path:
    """Return the dataset of all tasks."""
    return annotated_shapes


@pytest.fixture(scope="module")
def uninterrupted_run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> UninterruptedRun:
    """Return a function that returns the folder of an uninterrupted run of a task. Each run takes place once."""

    @functools.cache
    def run(task: str, *settings: str) -> Path:
        output = tmp_path_factory.mktemp("whole")
        done = train_net(shapes, output, *SETTINGS, *TASK_SETTINGS[task], *settings, config=TASKS[task])
        assert done.returncode == 0, done.stderr
        assert "Restarted from the best weights before the final epochs" in done.stdout
        return output

    return run


@pytest.fixture(scope="module")
def uninterrupted(uninterrupted_run: UninterruptedRun) -> Path:
    """Return the folder of an uninterrupted run for boxes."""
    return uninterrupted_run("boxes")


def finish(shapes: Path, output: Path, *arguments: str, task: str = "boxes") -> None:
    done = train_net(shapes, output, "--resume", *SETTINGS, *TASK_SETTINGS[task], *arguments, config=TASKS[task])
    assert done.returncode == 0, done.stderr


@pytest.mark.long
@pytest.mark.parametrize("task", TASKS)
def test_run_killed_in_every_stage(
    task: str, shapes: Path, tmp_path: Path, uninterrupted_run: UninterruptedRun
) -> None:
    """Kill a run in the stages plain, dense, strong and final."""
    for done in (10, 17, 29, 40):
        process = start(shapes, tmp_path, "--resume", *SETTINGS, *TASK_SETTINGS[task], config=TASKS[task])
        wait_until(lambda done=done: iterations_done(tmp_path) >= done, process, tmp_path)
        kill(process)
        assert all_processes_exit(process.pid)
    finish(shapes, tmp_path, task=task)
    assert_same_run(uninterrupted_run(task), tmp_path)


# After a checkpoint is written, and after an evaluation.
TWO_KILL_POINTS = [
    "a checkpoint is written, but last_checkpoint does not name it",
    "an evaluation is done, but no checkpoint records it",
]
FOUR_KILL_POINTS = ["a checkpoint is half written", *TWO_KILL_POINTS, "the final epochs begin"]


@pytest.mark.parametrize(
    ("task", "kill_points", "settings"),
    [
        pytest.param("boxes", FOUR_KILL_POINTS, [], id="boxes, few"),
        *(pytest.param(task, TWO_KILL_POINTS, FEW_EPOCHS, id=f"{task}, few") for task in ("masks", "keypoints")),
        *(pytest.param(task, list(KILL_POINTS), [], id=task, marks=pytest.mark.long) for task in TASKS),
    ],
)
def test_run_killed_at_every_kill_point(
    task: str,
    kill_points: list[str],
    settings: list[str],
    shapes: Path,
    tmp_path: Path,
    uninterrupted_run: UninterruptedRun,
) -> None:
    """Resume one run repeatedly, each time killed at another point of the code.

    Its checkpoints are written at iterations that are also evaluated.
    """
    for kill_point in kill_points:
        process = start(
            shapes,
            tmp_path,
            "--resume",
            *SETTINGS,
            *TASK_SETTINGS[task],
            *settings,
            "train.checkpointer.period=6",
            config=TASKS[task],
            command=("-m", "tests.faults.kill_points"),
            environment={"KILL_POINT": kill_point},
        )
        assert process.wait(timeout=600) == -signal.SIGKILL, kill_point + read_output(tmp_path)[-3000:]
        assert all_processes_exit(process.pid), kill_point
    finish(shapes, tmp_path, *settings, "train.checkpointer.period=6", task=task)
    assert_same_run(uninterrupted_run(task, *settings), tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("task", TASKS)
def test_run_killed_at_random_times(task: str, shapes: Path, tmp_path: Path) -> None:
    """Kill the main process, a worker, or all processes. The seed is fixed; the exact moments depend on the machine."""
    settings = [*SETTINGS, *TASK_SETTINGS[task], "schedule.epochs=40", "dataloader.test.num_workers=1"]
    uninterrupted, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert train_net(shapes, uninterrupted, *settings, config=TASKS[task]).returncode == 0
    draw, kills = random.Random(0), 0
    while kills < 20:
        process = start(shapes, pieces, "--resume", *settings, config=TASKS[task])
        iterations_before = iterations_done(pieces)
        wait_until(
            lambda iterations_before=iterations_before: iterations_done(pieces) > iterations_before, process, pieces
        )
        time.sleep(draw.uniform(0, 1.5))
        victim = draw.choice(["main", "worker", "all"])
        workers = children(process.pid)
        if process.poll() is not None:
            break  # the run has finished
        if victim == "all":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            os.kill(draw.choice(workers) if victim == "worker" and workers else process.pid, signal.SIGKILL)
        process.wait(timeout=60)
        assert all_processes_exit(process.pid), members(process.pid)
        kills += 1
    assert kills == 20, "the run is long enough to be killed so often"
    finish(shapes, pieces, *settings[len(SETTINGS) :], task=task)
    assert_same_run(uninterrupted, pieces)


def test_killed_worker_ends_the_run_with_a_message(shapes: Path, tmp_path: Path) -> None:
    process = start(shapes, tmp_path, *SETTINGS, "schedule.epochs=1000")
    wait_until(lambda: iterations_done(tmp_path) > 0, process, tmp_path)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    assert process.wait(timeout=60) == 2
    assert "is killed by signal: Killed" in read_output(tmp_path)
    assert "reduce dataloader.*.num_workers" in read_output(tmp_path)
    assert all_processes_exit(process.pid)


def test_workers_with_unread_batches_exit(shapes: Path, tmp_path: Path) -> None:
    """Use batches of several megabytes, larger than a pipe buffer, that are produced faster than they are consumed."""
    large = ["dataloader.image_size=[640,640]", "dataloader.train.num_workers=2", "dataloader.train.total_batch_size=8"]
    process = start(shapes, tmp_path, *SETTINGS, *large, "train.log_period=1")
    wait_until(lambda: iterations_done(tmp_path) > 0, process, tmp_path)
    assert len(members(process.pid)) >= 3
    time.sleep(2)
    kill(process)
    assert all_processes_exit(process.pid), members(process.pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.long)])
def test_preempted_run_saves_a_checkpoint(
    number: signal.Signals, shapes: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    """Signal all processes of a run, as schedulers do: the run finishes the iteration and saves a checkpoint."""
    process = start(shapes, tmp_path, *SETTINGS, "train.checkpointer.period=1000")
    wait_until(lambda: iterations_done(tmp_path) >= 8, process, tmp_path)
    os.killpg(process.pid, number)
    assert process.wait(timeout=60) == PREEMPTED_EXIT_STATUS, read_output(tmp_path)[-3000:]
    assert all_processes_exit(process.pid)
    (iteration,) = re.findall(rf"Received {number.name}: exiting after iteration (\d+)", read_output(tmp_path))
    assert (tmp_path / "last_checkpoint").read_text(encoding="utf-8") == f"model_{int(iteration):07d}.pth"
    assert int(iteration) < LAST_ITERATION
    finish(shapes, tmp_path, "train.checkpointer.period=1000")
    assert f"Starting training from iteration {int(iteration) + 1}" in (tmp_path / "log.txt").read_text(
        encoding="utf-8"
    )
    assert_same_run(
        uninterrupted, tmp_path, ignored_iteration=int(iteration)
    )  # the preempted run logs this iteration in addition


def test_damaged_checkpoints_are_skipped_on_resume(shapes: Path, tmp_path: Path, uninterrupted: Path) -> None:
    """Keep the three oldest checkpoints. Truncate the newest of these, and change a byte of the second newest."""
    process = start(shapes, tmp_path, *SETTINGS, "train.checkpointer.max_to_keep=10")
    wait_until((tmp_path / "model_0000029.pth").exists, process, tmp_path)
    kill(process)
    newest = sorted(tmp_path.glob("model_00*.pth"))[::-1]
    for path in newest[:-3]:
        path.unlink()
    newest = newest[-3:]
    newest[0].write_bytes(newest[0].read_bytes()[:-1000])
    content = bytearray(newest[1].read_bytes())
    content[len(content) // 2] ^= 1
    newest[1].write_bytes(content)
    done = train_net(shapes, tmp_path, "--resume", *SETTINGS)
    assert done.returncode == 0, done.stderr
    for path in newest[:2]:
        assert re.search(rf"{path} is damaged.*looking for the checkpoint before it", done.stdout)
    assert f"Starting training from iteration {int(newest[2].stem[-7:]) + 1}" in done.stdout
    assert_same_run(uninterrupted, tmp_path)


def test_only_damaged_checkpoints_is_an_error(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "model_0000004.pth").write_bytes(b"PK")
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth")
    message = expect_error(train_net(shapes, tmp_path, "--resume", *SETTINGS))
    assert f"no checkpoint in {tmp_path} can be resumed from" in message


def test_full_disk_keeps_the_previous_checkpoint(shapes: Path, tmp_path: Path) -> None:
    settings = [*SETTINGS, "train.eval_period=0", "train.max_iter=12"]
    (tmp_path / "model_0000009.pth.part").symlink_to("/dev/full")
    message = expect_error(train_net(shapes, tmp_path, *settings))
    assert f"cannot write {tmp_path}/model_0000009.pth: No space left on device" in message
    assert (tmp_path / "last_checkpoint").read_text(encoding="utf-8") == "model_0000004.pth"
    done = train_net(shapes, tmp_path, "--resume", *settings)
    assert done.returncode == 0, done.stderr
    assert "Starting training from iteration 5" in done.stdout


@pytest.mark.usefixtures("several_processes")
@pytest.mark.long
def test_two_ranks_start_the_final_epochs_together(shapes: Path, tmp_path: Path) -> None:
    done = train_net(shapes, tmp_path, "--num-gpus=2", *SETTINGS, "schedule.epochs=4")
    assert done.returncode == 0, done.stderr
    assert "Restarted from the best weights before the final epochs" in done.stdout
    assert iterations_done(tmp_path) >= 24
