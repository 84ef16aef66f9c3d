"""Settings of runs from random weights on small datasets."""

from pathlib import Path

import pytest

from deim.config.batch_size import scale_to_batch_size
from deim.config.random_weights import fit_to_small_data, smaller_batch
from tests.commands import SMALL, metrics, tool
from tests.models import recipe

RANDOM = ["train.init_checkpoint=", "model.backbone.weights="]
REFERENCE = ["train.reference_batch_size=32", "train.reference_dataset_size=118287"]


@pytest.mark.parametrize(
    ("size", "num_images", "world_size", "expected"),
    [
        (32, 205, 1, 8),
        (32, 118_287, 1, 32),
        (32, 800, 1, 32),
        (32, 799, 1, 16),
        (128, 600, 1, 16),
        (128, 10, 1, 8),
        (32, 205, 8, 8),
        (24, 205, 8, 24),
        (12, 50, 1, 12),
    ],
)
def test_batches_leave_enough_iterations_per_epoch(size: int, num_images: int, world_size: int, expected: int) -> None:
    assert smaller_batch(size, num_images, world_size) == expected


def test_dense_o2o_starts_later() -> None:
    cfg = recipe("deim_dfine_s_coco", *REFERENCE)
    assert (cfg.dataloader.train.total_batch_size, list(cfg.schedule.dense_epochs)) == (32, [4, 64])
    changes = fit_to_small_data(cfg, 205)
    assert changes == {"dataloader.train.total_batch_size": 8, "schedule.dense_epochs": [12, 64]}
    assert cfg.dataloader.train.total_batch_size == 8
    assert list(cfg.schedule.dense_epochs) == [12, 64]
    assert fit_to_small_data(recipe("deim_dfine_s_coco", *REFERENCE), 4000) == {}
    tiny = recipe("deim_dfine_s_coco", *REFERENCE)
    fit_to_small_data(tiny, 20)
    assert list(tiny.schedule.dense_epochs) == [42, 64], "a third of the epochs until the end of Dense O2O remain"


def test_set_keys_and_recipes_without_scaling_are_unchanged() -> None:
    assert fit_to_small_data(recipe("deim_dfine_s_coco"), 205) == {}
    unscaled = "train.unscaled_keys=[dataloader.train.total_batch_size,schedule.dense_epochs]"
    assert fit_to_small_data(recipe("deim_dfine_s_coco", *REFERENCE, unscaled), 205) == {}
    resumed = recipe("deim_dfine_s_coco", *REFERENCE)
    assert "dataloader.train.total_batch_size" not in fit_to_small_data(resumed, 205, stored_batch_size=32)


def test_learning_rates_and_warmup() -> None:
    own = recipe("deim_dfine_n_coco")
    cfg = recipe("deim_dfine_n_coco", "train.reference_batch_size=128", "train.reference_dataset_size=118287")
    cfg.dataloader.train.total_batch_size = 8
    assert scale_to_batch_size(cfg, 25, from_random_weights=True)
    assert cfg.optimizer.lr == own.optimizer.lr, "a smaller batch does not lower it"
    assert own.optimizer.params.rules.backbone.lr < own.optimizer.lr
    assert cfg.optimizer.params.rules.backbone.lr == own.optimizer.lr, "the backbone is not pretrained"
    assert cfg.schedule.warmup_iters == 200
    short = recipe("deim_dfine_n_coco", "train.reference_batch_size=128", "train.reference_dataset_size=118287")
    assert scale_to_batch_size(short, 2, from_random_weights=True)
    assert short.schedule.warmup_iters == 2 * own.schedule.epochs // 4
    larger = recipe("deim_dfine_n_coco", "train.reference_batch_size=64")
    assert scale_to_batch_size(larger, 25, from_random_weights=True)
    assert larger.optimizer.lr == 2 * own.optimizer.lr


def test_run_from_random_weights_on_small_data(shapes: Path, tmp_path: Path) -> None:
    """24 images, and a schedule of 2 epochs with 3 iterations each."""
    output = tmp_path / "run"
    small = [value for value in SMALL if "total_batch_size" not in value]
    schedule = ["schedule.epochs=2", "schedule.flat_epochs=1", "schedule.no_aug_epochs=0", "schedule.eval_epochs=2"]
    words = ["--config-file", "deim_dfine/deim_dfine_n_coco", "--data", str(shapes), f"train.output_dir={output}"]
    done = tool("train_net.py", *words, *small, *schedule, *RANDOM, "train.device=cpu")
    assert done.returncode == 0, done.stderr[-3000:]
    text = (output / "log.txt").read_text(encoding="utf-8")
    assert "Training from random weights on 24 images: dataloader.train.total_batch_size=8" in text
    assert sorted(metrics(output)) == list(range(6))
