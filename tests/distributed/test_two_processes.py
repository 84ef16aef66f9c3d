"""Two ranks on the CPU train like one rank with the same global batch."""

import json
from pathlib import Path

import pytest

from tests.commands import TASKS, metrics, train_net
from tests.conftest import long_except

# Disabled: batch statistics over the images of a rank, and random numbers drawn by each rank. Denoising queries remain,
# without noise. All images have the same number of objects, so that all ranks use the same number of denoising groups.
NO_NOISE = ["model.decoder.denoising.label_noise_ratio=0", "model.decoder.denoising.box_noise_scale=0"]
COMPARABLE = [
    *NO_NOISE,
    "model._target_=tests.distributed.frozen.frozen_detector",
    "dataloader.train.mapper.color=[]",
    "dataloader.train.mapper.weak=[]",
    "train.max_iter=10",
    "train.eval_period=0",
    "schedule.warmup_iters=0",
]


# {task: (overrides, losses that are compared besides the total loss)}
TASK_SETTINGS = {
    "boxes": ([], ["loss_ddf_aux_0"]),
    "masks": (
        [
            "+model.criterion.mask_sampler._target_=tests.distributed.frozen.FixedMaskPointSampler",
            "model.criterion.matcher.further_costs=[{_target_: tests.distributed.frozen.FixedMaskCost}]",
        ],
        ["loss_mask_ce", "loss_mask_dice"],
    ),
    "keypoints": ([], ["loss_keypoints", "loss_oks"]),
    "poses": (["model.decoder.denoising=null"], ["loss_keypoints", "loss_oks"]),
}


@pytest.fixture(scope="module")
def equal_counts(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write an annotation file with two objects of each image that has at least two, and return its path."""
    return write_equal_counts(shapes, tmp_path_factory.mktemp("two"))


def write_equal_counts(shapes: Path, folder: Path) -> Path:
    content = json.loads((shapes / "annotations" / "instances_train.json").read_text(encoding="utf-8"))
    by_image: dict[int, list] = {}
    for annotation in content["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    content["annotations"] = [a for objects in by_image.values() if len(objects) >= 2 for a in objects[:2]]
    content["images"] = [i for i in content["images"] if len(by_image.get(i["id"], [])) >= 2]
    path = folder / "two.json"
    path.write_text(json.dumps(content))
    return path


def losses(shapes: Path, annotations: Path, output: Path, processes: int, task: str) -> dict[str, dict[int, float]]:
    """Return the total loss and the losses of the task at each iteration of a run."""
    overrides, names = TASK_SETTINGS[task]
    settings = COMPARABLE if task != "poses" else [value for value in COMPARABLE if value not in NO_NOISE]
    done = train_net(
        shapes,
        output,
        f"--num-gpus={processes}",
        "--dist-url=auto",
        *settings,
        *overrides,
        "model._target_=tests.distributed.frozen.double_precision_detector",
        f"dataloader.train.dataset.json_file={annotations}",
        config=TASKS[task],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: metrics(output, name) for name in ("total_loss", *names)}


@pytest.mark.usefixtures("several_processes")
@pytest.mark.parametrize("task", long_except(["boxes"], TASKS))
def test_two_ranks_have_the_losses_of_one(task: str, annotated_shapes: Path, tmp_path: Path) -> None:
    annotations = write_equal_counts(annotated_shapes, tmp_path)
    one = losses(annotated_shapes, annotations, tmp_path / "one", 1, task)
    two = losses(annotated_shapes, annotations, tmp_path / "two", 2, task)
    for name, values in one.items():
        assert sorted(values) == list(range(10)), name
        assert two[name] == pytest.approx(values, rel=1e-6), name
    first, last = one["total_loss"][0], one["total_loss"][9]
    changes = abs(last - first) > 0.01 * first if task == "poses" else last < first
    assert changes, "the weights of the model change noticeably"
