"""Two processes on the CPU train like one with the same global batch."""

import json
from pathlib import Path

import pytest

from tests.commands import metrics, train_net

# What makes processes differ by nature is off: statistics of normalization over a process's own
# images, and noise drawn by each process. Denoising queries stay, without noise, and every image
# has the same number of objects, so that all processes make as many groups.
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
    """The images of the shapes with at least two objects, and two objects of each."""
    content = json.loads((shapes / "annotations" / "instances_train.json").read_text(encoding="utf-8"))
    by_image: dict[int, list] = {}
    for annotation in content["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    content["annotations"] = [a for found in by_image.values() if len(found) >= 2 for a in found[:2]]
    content["images"] = [i for i in content["images"] if len(by_image.get(i["id"], [])) >= 2]
    path = tmp_path_factory.mktemp("two") / "two.json"
    path.write_text(json.dumps(content))
    return path


def losses(shapes: Path, annotations: Path, output: Path, processes: int) -> tuple[dict[int, float], dict[int, float]]:
    done = train_net(
        shapes,
        output,
        f"--num-gpus={processes}",
        "--dist-url=auto",
        *COMPARABLE,
        f"dataloader.train.dataset.json_file={annotations}",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return metrics(output), metrics(output, "loss_ddf_aux_0")


@pytest.mark.usefixtures("several_processes")
def test_the_loss_curve_is_that_of_one_process(shapes: Path, equal_counts: Path, tmp_path: Path) -> None:
    one, one_distilled = losses(shapes, equal_counts, tmp_path / "one", 1)
    two, two_distilled = losses(shapes, equal_counts, tmp_path / "two", 2)
    assert sorted(one) == list(range(10))
    assert one[9] < one[0], "the model must have learnt something to compare"
    for iteration, value in one.items():
        assert two[iteration] == pytest.approx(value, rel=1e-4)
        assert two_distilled[iteration] == pytest.approx(one_distilled[iteration], rel=1e-3, abs=1e-6)
