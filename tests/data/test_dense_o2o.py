"""Dense O2O: mosaic, mixup, stages and image sizes, and their reproducibility."""

from dataclasses import replace
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st

from deim.data import build_train_loader, coco_dataset
from deim.data.augmentation import RandomIoUCrop, RandomPhotometricDistort, RandomZoomOut
from deim.data.mixup import Mixup, mix
from deim.data.mosaic import Mosaic
from deim.data.staged import StagedMapper, multi_scale_sizes
from deim.errors import ConfigError
from deim.schedule import Schedule, Stage

# One iteration per epoch below: iterations 0-1 plain, 2-4 dense, 5-6 strong, 7-8 final.
SCHEDULE = Schedule(epochs=9, dense_epochs=(2, 5), no_aug_epochs=2)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_mosaic_boxes_follow_their_objects(seed: int) -> None:
    """Without rotation, the transformed box is the box of the object."""
    np.random.seed(seed)
    sizes = [tuple(int(v) for v in np.random.randint(80, 200, 2)) for _ in range(4)]
    transforms = Mosaic(degrees=0).get_transforms(sizes, (256, 320))
    for size, transform in zip(sizes, transforms, strict=True):
        image = np.full((*size, 3), 30, np.uint8)
        left, top = np.random.randint(5, 25, 2)
        box = np.array([[left, top, left + 45, top + 40]], dtype=np.float64)
        image[top : top + 40, left : left + 45] = 250
        moved = transform.apply_box(box)[0]
        clipped = moved.clip(0, [320, 256, 320, 256])
        if (clipped[2:] - clipped[:2] < 4).any():
            continue
        bright = transform.apply_image(image)[..., 0] > 140
        rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
        visible = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert np.abs(visible - clipped).max() <= 2


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_rotated_box_encloses_its_object(seed: int) -> None:
    np.random.seed(seed)
    transform = Mosaic(degrees=10, scale=(1.0, 1.0), translate=0).get_transforms([(200, 200)] * 4, (256, 256))[0]
    image = np.zeros((200, 200, 3), np.uint8)
    cv2.rectangle(image, (80, 90), (159, 149), (255, 255, 255), -1)
    box = transform.apply_box(np.array([[80.0, 90, 160, 150]]))[0]
    rows, columns = np.nonzero(transform.apply_image(image)[..., 0] > 127)
    assert columns.min() >= box[0] - 1.5
    assert columns.max() + 1 <= box[2] + 1.5
    assert rows.min() >= box[1] - 1.5
    assert rows.max() + 1 <= box[3] + 1.5
    assert columns.min() - box[0] < 12, "and not much more than the object"


def test_mosaic_images_meet_at_the_center() -> None:
    mosaic = Mosaic(degrees=0, translate=0, scale=(1.0, 1.0))
    canvas = np.zeros((64, 64, 3), np.uint8)
    for value, transform in zip((40, 80, 120, 160), mosaic.get_transforms([(100, 100)] * 4, (64, 64)), strict=True):
        transform.draw_on(canvas, np.full((100, 100, 3), value, np.uint8))
    assert [canvas[y, x, 0] for y in (10, 50) for x in (10, 50)] == [40, 80, 120, 160]


def test_short_sides_are_resized_to_the_tile() -> None:
    mosaic = Mosaic(tile_size=320, degrees=0, translate=0, scale=(1.0, 1.0))
    # tiles of 320 x 640: the canvas is 640 high and 1280 wide, the output half of that
    first, second, *_ = mosaic.get_transforms([(100, 200), (50, 50), (10, 10), (10, 10)], (320, 640))
    assert first.apply_coords(np.array([[200.0, 100.0]]))[0] == pytest.approx([320, 160])
    assert second.apply_coords(np.array([[0.0, 0.0], [50.0, 50.0]])) == pytest.approx(np.array([[320, 0], [480, 160]]))


def sample(value: int, label: int) -> dict:
    boxes = Boxes(torch.tensor([[0.0, 0, label + 1, 2]]))
    instances = Instances((4, 4), gt_boxes=boxes, gt_classes=torch.tensor([label]))
    return {"image": torch.full((3, 4, 4), value, dtype=torch.uint8), "instances": instances}


def test_mixup_blends_images_and_merges_objects() -> None:
    samples, neighbors = [sample(100, 0), sample(200, 1)], [sample(200, 1), sample(100, 0)]
    first, second = mix(samples, neighbors, 0.45)
    assert first["image"].unique().tolist() == [155]
    assert second["image"].unique().tolist() == [145]
    assert first["instances"].gt_classes.tolist() == [0, 1]
    assert second["instances"].gt_boxes.tensor[:, 2].tolist() == [2, 1]
    assert samples[0]["image"].unique().tolist() == [100], "the input is unchanged"


def test_multi_scale_sizes_of_the_published_recipes() -> None:
    sizes = multi_scale_sizes(640, 20)
    assert sorted(set(sizes)) == list(range(480, 801, 32))
    assert sizes.count(640) == 20
    assert all(sizes.count(size) == 1 for size in sizes if size != 640)
    assert multi_scale_sizes(640, None) == [640]


def mapper(**options) -> StagedMapper:
    settings = {
        "color": [RandomPhotometricDistort()],
        "strong": [RandomZoomOut(), RandomIoUCrop()],
        "weak": [T.RandomFlip()],
        "mosaic": Mosaic(tile_size=64),
        "multi_scale_repeat": 1,
    }
    return StagedMapper(SCHEDULE, (96, 96), **{**settings, **options})


def load_batches(
    shapes: Path, start: int, count: int, workers: int = 0, rank: int = 0, world: int = 1, **options
) -> list:
    """Return [{slot: (file name, image, boxes)}] of one rank."""
    folder = str(shapes / "train")
    records = coco_dataset(f"{shapes}_dense", str(shapes / "annotations" / "instances_train.json"), folder)[:16]
    with (
        mock.patch("detectron2.utils.comm.get_world_size", return_value=world),
        mock.patch("detectron2.utils.comm.get_rank", return_value=rank),
    ):
        loader = build_train_loader(
            records, mapper=mapper(**options), total_batch_size=16, num_workers=workers, seed=5, mixup=Mixup()
        )
    loader.start_iter = start
    batches = iter(loader)
    return [
        {
            slot: (s["file_name"], s["image"], s["instances"].gt_boxes.tensor)
            for slot, s in zip(loader.sampler.slots, next(batches), strict=True)
        }
        for _ in range(count)
    ]


def batches_are_equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        a[k][0] == b[k][0] and torch.equal(a[k][1], b[k][1]) and torch.equal(a[k][2], b[k][2]) for k in a
    )


@pytest.fixture(scope="module")
def reference(shapes: Path) -> list[dict]:
    """Return the batches of all 9 iterations, loaded without worker processes."""
    return load_batches(shapes, 0, 9)


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_do_not_depend_on_the_number_of_workers(shapes: Path, reference: list[dict], workers: int) -> None:
    batches = load_batches(shapes, 0, 9, workers)
    assert all(batches_are_equal(a, b) for a, b in zip(batches, reference, strict=True))


def test_two_ranks_of_8_images_equal_one_rank_of_16(shapes: Path, reference: list[dict]) -> None:
    halves = [load_batches(shapes, 0, 9, rank=rank, world=2) for rank in (0, 1)]
    for first, second, whole in zip(*halves, reference, strict=True):
        assert len(first) == len(second) == 8
        assert batches_are_equal({**first, **second}, whole)


@pytest.mark.parametrize("start", [1, 3, 6, 8])
def test_resumed_run_has_the_same_batches(shapes: Path, reference: list[dict], start: int) -> None:
    batches = load_batches(shapes, start, 9 - start, workers=1)
    assert all(batches_are_equal(a, b) for a, b in zip(batches, reference[start:], strict=True))


def test_stages_start_at_their_iteration(reference: list[dict]) -> None:
    objects = [sum(len(boxes) for _, _, boxes in batch.values()) for batch in reference]
    plain = objects[0]
    assert objects[1] == objects[7] == objects[8] == plain, "plain stages keep every object"
    assert max(objects[2:5]) > 1.3 * plain, "Dense O2O has more objects"
    assert max(objects[5:7]) <= plain, "crops only lose objects"
    sizes = [next(iter(batch.values()))[1].shape[-2:] for batch in reference]
    assert {tuple(s) for s in sizes[7:]} == {(96, 96)}, "no multi-scale in the end"
    for batch in reference:
        assert len({image.shape for _, image, _ in batch.values()}) == 1, "one size per iteration"
    assert len({tuple(s) for s in sizes[:7]}) > 1


def test_stages_follow_the_epochs() -> None:
    stages = [SCHEDULE.stage(epoch) for epoch in range(9)]
    assert stages == [Stage.PLAIN] * 2 + [Stage.DENSE] * 3 + [Stage.STRONG] * 2 + [Stage.FINAL] * 2
    stages = [replace(SCHEDULE, strong_end_epoch=6).stage(epoch) for epoch in range(9)]
    assert stages == [Stage.PLAIN] * 2 + [Stage.DENSE] * 3 + [Stage.STRONG, Stage.PLAIN] + [Stage.FINAL] * 2


def test_dense_stage_without_mosaic(shapes: Path) -> None:
    """Without a mosaic, images are augmented as in the stage STRONG."""
    batch = load_batches(shapes, 3, 1, mosaic=None)[0]
    assert len(batch) == 16
    records = coco_dataset(
        f"{shapes}_dense", str(shapes / "annotations" / "instances_train.json"), str(shapes / "train")
    )
    images = []
    for stage in (Stage.DENSE, Stage.STRONG):
        np.random.seed(0)
        images.append(mapper(mosaic=None).mapper_for(stage, records)(records[0])["image"])
    assert torch.equal(*images)


def test_mixup_requires_a_staged_mapper(shapes: Path) -> None:
    with pytest.raises(ConfigError, match="need a StagedMapper"):
        build_train_loader([{}], mapper=dict, total_batch_size=1, mixup=Mixup())
