"""Runs of ``tools/train_net.py``: training, evaluation, fine-tuning, drawing, torchrun."""

import functools
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import deim
from tests.commands import (
    RECIPE,
    SMALL,
    TASK_SETTINGS,
    TASKS,
    data_overrides,
    metrics,
    tool,
    train_arguments,
    train_net,
)
from tests.faults.runs import assert_same_run


@pytest.fixture(scope="module")
def finished(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output folder of a run of one epoch (6 iterations)."""
    output = tmp_path_factory.mktemp("run")
    done = train_net(shapes, output, "schedule.epochs=1", "schedule.flat_epochs=1", "schedule.no_aug_epochs=0")
    assert done.returncode == 0, done.stderr
    assert "eta: " in done.stdout
    assert "copypaste: AP,AP50,AP75,APs,APm,APl" in done.stdout
    return output


def test_run_writes_the_files_of_detectron2(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {"config.yaml", "log.txt", "metrics.json", "model_final.pth", "model_best.pth", "last_checkpoint"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert len(metrics(finished)) == 6
    content = torch.load(finished / "model_final.pth", weights_only=True)
    assert {"model", "ema_state", "trainer", "iteration"} <= set(content)
    assert content["trainer"]["hooks"]["EMAHook"] == {"updates": 6}
    assert content["iteration"] == 5
    assert (finished / "last_checkpoint").read_text(encoding="utf-8") == "model_final.pth", (
        "runs are not resumed from the best checkpoint, although it is saved last"
    )


def test_eval_only_reproduces_the_last_evaluation(shapes: Path, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("of the run")
    done = train_net(shapes, tmp_path, "--eval-only", f"train.init_checkpoint={finished}/model_final.pth")
    assert (tmp_path / "config.yaml").read_text() == "of the run"
    assert done.returncode == 0, done.stderr
    row = next(line for line in reversed(done.stdout.splitlines()) if "copypaste: " in line)
    trained = (finished / "log.txt").read_text(encoding="utf-8")
    assert row.split("copypaste: ")[1] in trained


def test_eval_only_with_several_views_and_models(shapes: Path, finished: Path, tmp_path: Path) -> None:
    options = [f"train.init_checkpoint={finished}/model_final.pth", "--tta", f"--ensemble={finished}/model_best.pth"]
    done = train_net(shapes, tmp_path, "--eval-only", *options)
    assert done.returncode == 0, done.stderr
    assert "copypaste: AP,AP50,AP75,APs,APm,APl" in done.stdout


def test_fine_tuning_from_ema_weights_with_other_classes(shapes: Path, finished: Path, tmp_path: Path) -> None:
    content = json.loads((shapes / "annotations" / "instances_train.json").read_text(encoding="utf-8"))
    content["categories"] = content["categories"][:2]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] <= 2]
    (tmp_path / "two.json").write_text(json.dumps(content))
    done = train_net(
        shapes,
        tmp_path / "out",
        f"train.init_checkpoint={finished}/model_final.pth",
        "model.num_classes=2",
        "train.max_iter=1",
        *(f"dataloader.{key}.dataset.json_file={tmp_path}/two.json" for key in ("train", "test")),
        *(f"dataloader.{key}.dataset.image_root={shapes}/train" for key in ("train", "test")),
        "dataloader.test.dataset.names=two",
        "dataloader.train.dataset.names=two",
    )
    assert done.returncode == 0, done.stderr
    names = [category["name"] for category in content["categories"]]
    assert f"{names[0]} <- {names[0]} (0), {names[1]} <- {names[1]} (1)" in done.stdout


def test_checkpoint_contains_its_provenance(shapes: Path, finished: Path) -> None:
    metadata = torch.load(finished / "model_final.pth", weights_only=True)["deim"]
    categories = json.loads((shapes / "annotations" / "instances_train.json").read_text(encoding="utf-8"))["categories"]
    config = metadata.pop("config")
    assert config["model"]["decoder"]["queries"]["num_queries"] == 20, (
        "the value from the command line, not from the recipe"
    )
    assert config["mapper"]["augmentations"][0]["shape"] == [64, 64]
    assert metadata == {
        "version": deim.__version__,
        "recipe": "deim_dfine/deim_dfine_n_shapes",
        "classes": [category["name"] for category in categories],
        "form": "training",
    }


def test_plot_and_draw_commands(shapes: Path, finished: Path, tmp_path: Path) -> None:
    curves, grid = tmp_path / "curves.png", tmp_path / "grid.png"
    assert tool("plot_metrics.py", f"{finished}/metrics.json", str(curves)).returncode == 0
    done = tool(
        "draw_predictions.py",
        "--config-file",
        RECIPE,
        "--output",
        str(grid),
        "--images",
        "3",
        "--threshold",
        "0.0",
        *SMALL,
        *data_overrides(shapes),
        f"train.init_checkpoint={finished}/model_final.pth",
    )
    assert done.returncode == 0, done.stderr
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (curves, grid))


@pytest.mark.usefixtures("several_processes")
def test_torchrun(shapes: Path, tmp_path: Path) -> None:
    done = train_net(
        shapes,
        tmp_path,
        "train.max_iter=2",
        launcher=("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "World size: 2" in done.stdout
    assert len(metrics(tmp_path)) == 2


def test_training_batches_are_drawn_and_counted(shapes: Path, tmp_path: Path) -> None:
    def visualize(epoch: int) -> subprocess.CompletedProcess:
        return tool(
            "visualize_data.py",
            "--config-file",
            "projects/deim_dfine/configs/deim_dfine_n_coco.py",
            "--epoch",
            str(epoch),
            "--output",
            str(tmp_path / "batch.png"),
            "--batches",
            "2",
            *(o for o in data_overrides(shapes) if ".train." in o),
            "dataloader.train.dataset.names=shapes",
            "dataloader.train.total_batch_size=8",
            "dataloader.train.num_workers=0",
            "dataloader.image_size=[96,96]",
        )

    done = visualize(10)
    assert done.returncode == 0, done.stderr
    assert "epoch 10: Dense O2O" in done.stdout
    dense, sparse = (float(line.split(": ")[1]) for line in done.stdout.splitlines()[-2:])
    assert dense > 1.3 * sparse
    assert (tmp_path / "batch.png").read_bytes().startswith(b"\x89PNG")
    assert "is outside of the run, which has 160 epochs" in visualize(160).stderr


@pytest.mark.usefixtures("several_processes")
@pytest.mark.long
def test_rtdetr_trains_in_two_processes_resumes_and_is_evaluated(shapes: Path, tmp_path: Path) -> None:
    config = "projects/deim_rtdetrv2/configs/deim_rtdetrv2_r18vd_shapes.py"

    def run(*arguments: str) -> str:
        done = tool("train_net.py", *train_arguments(shapes, tmp_path, *arguments, config=config))
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("--num-gpus=2", "train.max_iter=3", "train.eval_period=0")
    assert "Starting training from iteration 3" in run("--resume", "train.max_iter=5", "train.eval_period=0")
    assert sorted(metrics(tmp_path)) == [0, 1, 2, 3, 4]
    assert "Evaluation results for bbox" in run("--eval-only", f"train.init_checkpoint={tmp_path}/model_final.pth")


# Runs of 24 iterations.
FEW_ITERATIONS = [
    "schedule.epochs=4",
    "schedule.dense_epochs=[1,2]",
    "schedule.flat_epochs=1",
    "schedule.no_aug_epochs=1",
    "schedule.eval_epochs=4",
    "train.checkpointer.period=15",
    "train.model_ema.decay=0.9",
    "train.model_ema.warmup_iters=5",
]
# The masks of these images are learned within the 24 iterations if no augmentation changes their size.
NO_AUGMENTATION = [
    "schedule.warmup_iters=0",
    "dataloader.train.mapper.weak=[]",
    "dataloader.train.mapper.mosaic_prob=0",
]
TASK_RUNS = {
    "masks": [*FEW_ITERATIONS, *NO_AUGMENTATION],
    "keypoints": [*FEW_ITERATIONS, *TASK_SETTINGS["keypoints"]],
    "poses": [*FEW_ITERATIONS, *TASK_SETTINGS["poses"]],
}
RESULTS = {"masks": "segm", "keypoints": "keypoints", "poses": "keypoints"}


@pytest.fixture(scope="module")
def close_ups(annotated_shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a dataset of images that are filled by one object: some masks are correct after few iterations."""
    folder = tmp_path_factory.mktemp("close_ups")
    (folder / "annotations").mkdir()
    for split in ("train", "val"):
        (folder / split).mkdir()
        name = f"annotations/instances_{split}.json"
        content = json.loads((annotated_shapes / name).read_text(encoding="utf-8"))
        largest = {a["image_id"]: a for a in sorted(content["annotations"], key=lambda a: a["area"])}
        for image in content["images"]:
            annotation = largest[image["id"]]
            x, y, width, height = (int(value) for value in annotation["bbox"])
            pixels = cv2.imread(str(annotated_shapes / split / image["file_name"]))
            cv2.imwrite(str(folder / split / image["file_name"]), pixels[y : y + height, x : x + width])
            image.update(width=width, height=height)
            polygons = [(np.reshape(polygon, (-1, 2)) - (x, y)).ravel() for polygon in annotation["segmentation"]]
            points = np.reshape(annotation["keypoints"], (-1, 3)) - (x, y, 0)
            annotation.update(
                bbox=[0, 0, width, height],
                segmentation=[polygon.tolist() for polygon in polygons],
                keypoints=points.ravel().tolist(),
            )
        content["annotations"] = list(largest.values())
        (folder / name).write_text(json.dumps(content))
    return folder


TaskRun = Callable[[str], Path]


@pytest.fixture(scope="module")
def task_run(close_ups: Path, tmp_path_factory: pytest.TempPathFactory) -> TaskRun:
    """Return a function that returns the folder of a finished run of a task. Each run takes place once."""

    @functools.cache
    def run(task: str) -> Path:
        output = tmp_path_factory.mktemp(task)
        done = train_net(close_ups, output, *TASK_RUNS[task], config=TASKS[task])
        assert done.returncode == 0, done.stderr
        return output

    return run


@pytest.mark.long
@pytest.mark.parametrize("task", RESULTS)
def test_a_task_is_resumed(task: str, close_ups: Path, task_run: TaskRun, tmp_path: Path) -> None:
    uninterrupted, resumed = task_run(task), tmp_path / "resumed"
    shutil.copytree(uninterrupted, resumed, ignore=shutil.ignore_patterns("model_final.pth", "model_best.*"))
    (resumed / "last_checkpoint").write_text("model_0000014.pth")
    done = train_net(close_ups, resumed, "--resume", *TASK_RUNS[task], config=TASKS[task])
    assert done.returncode == 0, done.stderr
    assert "Starting training from iteration 15" in done.stdout
    assert_same_run(uninterrupted, resumed)


@pytest.mark.usefixtures("several_processes")
@pytest.mark.long
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("task", RESULTS)
def test_eval_only_reproduces_the_last_evaluation_of_a_task(
    task: str, processes: int, close_ups: Path, task_run: TaskRun, tmp_path: Path
) -> None:
    done = train_net(
        close_ups,
        tmp_path,
        "--eval-only",
        f"--num-gpus={processes}",
        "--dist-url=auto",
        *TASK_SETTINGS[task],
        f"train.init_checkpoint={task_run(task)}/model_final.pth",
        config=TASKS[task],
    )
    assert done.returncode == 0, done.stderr
    expected = score_rows((task_run(task) / "log.txt").read_text(encoding="utf-8"))
    assert score_rows(done.stdout) == expected
    scores = expected[RESULTS[task]].split(",")
    assert float(scores[0]) > 0, "the task has results that the evaluations could differ in"


def score_rows(log: str) -> dict[str, str]:
    """Return {task: scores} of the last evaluation in a log."""
    cells = [line.split("copypaste: ")[1] for line in log.splitlines() if "copypaste: " in line]
    return {task.removeprefix("Task: "): row for task, row in zip(cells[::3], cells[2::3], strict=True)}
