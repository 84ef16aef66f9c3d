"""Two ranks on the CPU train like one rank with the same global batch."""

import json
from pathlib import Path

import pytest

from tests.commands import metrics, train_net

# Disabled: batch statistics over the images of a rank, and random numbers drawn by each rank. Denoising queries remain,
# without noise. All images have the same number of objects, so that all ranks use the same number of denoising groups.
COMPARABLE = [
    "model.decoder.denoising.label_noise_ratio=0",
    "model.decoder.denoising.box_noise_scale=0",
    "model._target_=tests.distributed.frozen.frozen_detector",
    "dataloader.train.mapper.color=[]",
    "dataloader.train.mapper.weak=[]",
    "train.max_iter=10",
    "train.eval_period=0",
    "schedule.warmup_iters=0",
]


@pytest.fixture(scope="module")
def equal_counts(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write an annotation file with two objects of each image that has at least two, and return its path."""
    content = json.loads((shapes / "annotations" / "instances_train.json").read_text(encoding="utf-8"))
    by_image: dict[int, list] = {}
    for annotation in content["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    content["annotations"] = [a for objects in by_image.values() if len(objects) >= 2 for a in objects[:2]]
    content["images"] = [i for i in content["images"] if len(by_image.get(i["id"], [])) >= 2]
    path = tmp_path_factory.mktemp("two") / "two.json"
    path.write_text(json.dumps(content))
    return path


def losses(shapes: Path, annotations: Path, output: Path, processes: int) -> tuple[dict[int, float], dict[int, float]]:
    """Return the total loss and the distillation loss of each iteration of a run."""
    done = train_net(
        shapes,
        output,
        f"--num-gpus={processes}",
        "--dist-url=auto",
        *COMPARABLE,
        "model._target_=tests.distributed.frozen.double_precision_detector",
        f"dataloader.train.dataset.json_file={annotations}",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return metrics(output), metrics(output, "loss_ddf_aux_0")


@pytest.mark.usefixtures("several_processes")
def test_two_ranks_have_the_losses_of_one(shapes: Path, equal_counts: Path, tmp_path: Path) -> None:
    one, one_distillation = losses(shapes, equal_counts, tmp_path / "one", 1)
    two, two_distillation = losses(shapes, equal_counts, tmp_path / "two", 2)
    assert sorted(one) == list(range(10))
    assert one[9] < one[0], "the loss decreases, so the weights of the model change noticeably"
    assert two == pytest.approx(one, rel=1e-6)
    assert two_distillation == pytest.approx(one_distillation, rel=1e-6)
