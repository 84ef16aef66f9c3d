"""Repeat-factor sampling."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from deim.data import DetectionMapper, build_train_loader, coco_dataset
from deim.data.loader import TrainLoader
from deim.data.repeat_factors import repeat_factors, round_factors
from deim.data.sampler import IterationSampler
from deim.errors import ConfigError, DatasetError


def record(*labels: int, crowd: tuple[int, ...] = ()) -> dict:
    annotations = [
        {"bbox": [0, 0, 9, 9], "bbox_mode": BoxMode.XYXY_ABS, "category_id": label, "iscrowd": int(label in crowd)}
        for label in labels
    ]
    return {"annotations": annotations, "height": 10, "width": 10}


# Class 0 is in 8 of 10 images, class 1 in 2, class 2 in 1.
RECORDS = [*(record(0, 0) for _ in range(7)), record(0, 1), record(1, 2), record()]


def test_factors_are_those_of_detectron2() -> None:
    # max(1, sqrt(0.4 / frequency)): 1 for class 0, sqrt(2) for class 1, 2 for class 2; the largest of an image counts
    assert repeat_factors(RECORDS, 0.4) == pytest.approx([1] * 7 + [2**0.5, 2, 1])


def test_factors_equal_those_of_the_real_sampler() -> None:
    samplers = pytest.importorskip("detectron2.data.samplers")
    if not hasattr(samplers, "RepeatFactorTrainingSampler"):
        pytest.skip("needs the real detectron2")
    function = samplers.RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
    assert repeat_factors(RECORDS, 0.4) == pytest.approx(function(RECORDS, 0.4).numpy())


def test_every_class_is_frequent_enough() -> None:
    assert repeat_factors(RECORDS, 0.1).tolist() == [1] * 10


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5])
def test_thresholds_out_of_range_are_errors(threshold: float) -> None:
    with pytest.raises(ConfigError, match="repeat_threshold"):
        repeat_factors(RECORDS, threshold)


def test_rounding_has_the_factors_as_mean() -> None:
    factors = np.array([1.0, 1.25, 2.5, 3.0, 1.25])
    counts = np.stack([round_factors(factors, 9, offset) for offset in np.linspace(0, 1, 1000, endpoint=False)])
    assert (counts.sum(axis=1) == 9).all()
    assert counts.mean(axis=0) == pytest.approx(factors, abs=2e-3)
    assert (counts >= np.floor(factors)).all()
    assert (counts <= np.ceil(factors)).all()


def test_epochs_repeat_images_by_their_factor() -> None:
    factors = np.array([1.0] * 15 + [1.3] * 4 + [3.0])
    sampler = IterationSampler(20, 4, seed=0, repeat_factors=factors)
    assert sampler.epoch_size == 24  # 23.2 rounded up
    assert sampler.iters_per_epoch == 6
    epochs = [np.bincount(sampler.permutation(epoch), minlength=20) for epoch in range(400)]
    assert {int(counts.sum()) for counts in epochs} == {24}
    assert min(counts.min() for counts in epochs) == 1, "every image is in every epoch"
    assert np.mean(epochs, axis=0) == pytest.approx(factors * 24 / 23.2, abs=0.12)
    drawn = [sampler.key(iteration, slot).index for iteration in range(6) for slot in range(4)]
    assert sorted(drawn) == sorted(sampler.permutation(0).tolist())


def test_order_is_unchanged_without_factors() -> None:
    expected = np.random.default_rng([3, 5]).permutation(10)
    assert IterationSampler(10, 2, seed=3).permutation(5).tolist() == expected.tolist()


def image_ids(loader: TrainLoader, start: int, count: int) -> list[list[int]]:
    loader.start_iter = start
    return [[sample["image_id"] for sample in batch] for batch in itertools.islice(loader, count)]


def test_stream_depends_neither_on_workers_nor_on_interruptions(shapes: Path) -> None:
    data = coco_dataset("repeated_shapes", f"{shapes}/annotations/instances_train.json", f"{shapes}/train")

    def loader(num_workers: int) -> TrainLoader:
        mapper = DetectionMapper(augmentations=[T.Resize((32, 32))], is_train=True)
        return build_train_loader(
            data, mapper=mapper, total_batch_size=4, num_workers=num_workers, seed=1, repeat_threshold=1.0
        )

    whole = image_ids(loader(0), 0, 12)
    assert loader(0).iters_per_epoch > len(data) // 4
    assert image_ids(loader(2), 5, 7) == whole[5:]


def test_sampler_and_threshold_cannot_be_combined() -> None:
    with pytest.raises(ConfigError, match="cannot be combined"):
        build_train_loader(
            [record(0)], mapper=lambda r: r, total_batch_size=1, num_workers=0, sampler=[0], repeat_threshold=0.1
        )


def test_dataset_without_images_is_an_error() -> None:
    with pytest.raises(DatasetError, match="has no images"):
        build_train_loader([], mapper=lambda r: r, total_batch_size=1, num_workers=0, repeat_threshold=0.1)
