"""Records, augmentations, mapper, sampler and loader."""

import json
import random
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import Boxes, BoxMode, Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

from deim.data import DetectionMapper, build_train_loader, coco_dataset
from deim.data.augmentation import RandomIoUCrop, RandomPhotometricDistort, RandomZoomOut, Resize
from deim.data.loader import WorkerDiedError, translate_worker_errors
from deim.data.packing import PackedBatch, pack, unpack
from deim.data.sampler import IterationSampler, seeded_generators
from deim.errors import ConfigError

AUGMENTATIONS = {
    "photometric": lambda: [RandomPhotometricDistort(prob=1.0)],
    "zoom-out": lambda: [RandomZoomOut(prob=1.0)],
    "IoU crop": lambda: [RandomIoUCrop(prob=1.0)],
    "flip": lambda: [T.RandomFlip(prob=1.0)],
    "resize": lambda: [Resize((150, 90))],
    "all": lambda: [
        RandomPhotometricDistort(),
        RandomZoomOut(),
        RandomIoUCrop(),
        T.RandomFlip(),
        Resize((160, 160)),
    ],
}


def rectangle_image(box: tuple[int, int, int, int], size: tuple[int, int] = (120, 200)) -> np.ndarray:
    """Return a dark image with one white rectangle."""
    image = np.full((*size, 3), 30, np.uint8)
    left, top, right, bottom = box
    image[top:bottom, left:right] = 250
    return image


@pytest.mark.parametrize("name", AUGMENTATIONS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), left=st.integers(0, 120), top=st.integers(0, 60))
def test_boxes_follow_their_objects(name: str, seed: int, left: int, top: int) -> None:
    np.random.seed(seed)
    box = (left, top, left + 60, top + 50)
    augmented = T.AugInput(rectangle_image(box), boxes=np.array([box], dtype=np.float64))
    T.AugmentationList(AUGMENTATIONS[name]())(augmented)
    height, width = augmented.image.shape[:2]
    clipped = augmented.boxes[0].clip(0, [width, height, width, height])
    if (clipped[2:] - clipped[:2] < 1).any():
        return  # cropped away
    gray = augmented.image.max(axis=2).astype(float)
    bright = gray > (gray.max() + 30) / 2
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    visible = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert np.abs(np.array(visible) - clipped).max() <= 2


def test_crop_drops_objects_centered_outside() -> None:
    np.random.seed(3)
    boxes = np.array([[10.0, 10, 40, 40], [150, 60, 190, 110]])
    dropped = 0
    for _ in range(50):
        augmented = T.AugInput(rectangle_image((10, 10, 40, 40)), boxes=boxes.copy())
        transform = RandomIoUCrop(prob=1.0)(augmented)
        if isinstance(transform, T.NoOpTransform):
            continue
        left, top, right, bottom = transform.window
        for before, after in zip(boxes, augmented.boxes, strict=True):
            x, y = (before[:2] + before[2:]) / 2
            inside = left < x < right and top < y < bottom
            assert (after[2:] > after[:2]).all() == inside
            dropped += not inside
    assert dropped


def test_an_image_without_objects_is_not_cropped() -> None:
    augmented = T.AugInput(rectangle_image((0, 0, 5, 5)), boxes=np.zeros((0, 4)))
    assert isinstance(RandomIoUCrop(prob=1.0)(augmented), T.NoOpTransform)


def test_augmentation_depends_only_on_the_seed() -> None:
    def augmented_image() -> np.ndarray:
        augmented = T.AugInput(rectangle_image((10, 10, 90, 80)), boxes=np.array([[10.0, 10, 90, 80]]))
        T.AugmentationList(AUGMENTATIONS["all"]())(augmented)
        return augmented.image

    images = []
    for slot in (0, 0, 1):
        with seeded_generators(1, 5, slot):
            images.append(augmented_image())
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_seeded_generators_restore_the_global_state() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), np.random.rand(), torch.rand(1).item()

    def seed() -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    seed()
    expected = draw()
    seed()
    with seeded_generators(0, 0, 0):
        draw()
    assert draw() == expected


def write_image(path: Path, size: tuple[int, int] = (40, 60)) -> str:
    cv2.imwrite(str(path), np.zeros((*size, 3), np.uint8))
    return str(path)


def test_mapper_drops_crowds_and_objects_outside(tmp_path: Path) -> None:
    def annotation(x, y, w, h, **extra):
        return {"bbox": [x, y, w, h], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 2, **extra}

    record = {
        "file_name": write_image(tmp_path / "a.jpg"),
        "height": 40,
        "width": 60,
        "image_id": 7,
        "annotations": [
            annotation(50, 30, 100, 100),
            annotation(5, 5, 10, 10, iscrowd=1),
            annotation(200, 5, 10, 10),
            annotation(5, 5, 0, 10),
            annotation(-5, -5, 15, 15, iscrowd=0),
        ],
    }
    sample = DetectionMapper([], is_train=True)(record)
    assert sample["image"].shape == (3, 40, 60)
    assert sample["image"].dtype == torch.uint8
    assert sample["instances"].gt_boxes.tensor.tolist() == [[50, 30, 60, 40], [0, 0, 10, 10]]
    assert sample["instances"].gt_classes.tolist() == [2, 2]
    assert "annotations" in record
    assert "annotations" not in sample
    assert "instances" not in DetectionMapper([], is_train=False)(record)


def test_each_epoch_is_a_permutation_in_full_batches() -> None:
    sampler = IterationSampler(10, 4, seed=0)
    assert sampler.iters_per_epoch == 2
    stream = iter(sampler)
    epochs = [[key.index for _ in range(2) for key in next(stream)] for _ in range(3)]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_dataset_smaller_than_a_batch_is_repeated() -> None:
    keys = next(iter(IterationSampler(3, 8, seed=0)))
    assert sorted({key.index for key in keys}) == [0, 1, 2]
    assert [key.slot for key in keys] == list(range(8))


def test_batch_size_of_zero_is_an_error() -> None:
    with pytest.raises(ConfigError, match="total_batch_size=0 is not a positive multiple"):
        IterationSampler(10, 0, seed=0)


def shapes_dataset(shapes: Path, split: str = "train") -> list[dict]:
    return coco_dataset(
        f"{shapes}_{split}", str(shapes / "annotations" / f"instances_{split}.json"), str(shapes / split)
    )


def first_batches(shapes: Path, workers: int, start: int, count: int) -> list:
    mapper = DetectionMapper(AUGMENTATIONS["all"](), is_train=True)
    loader = build_train_loader(shapes_dataset(shapes), mapper=mapper, total_batch_size=5, num_workers=workers, seed=3)
    loader.start_iter = start
    stream = iter(loader)
    return [[(s["file_name"], s["image"], s["instances"].gt_boxes.tensor) for s in next(stream)] for _ in range(count)]


def batches_are_equal(a: list, b: list) -> bool:
    return all(
        x[0] == y[0] and torch.equal(x[1], y[1]) and torch.equal(x[2], y[2])
        for first, second in zip(a, b, strict=True)
        for x, y in zip(first, second, strict=True)
    )


def test_batches_do_not_depend_on_workers_or_start(shapes: Path) -> None:
    reference = first_batches(shapes, workers=0, start=0, count=7)
    assert batches_are_equal(reference, first_batches(shapes, workers=2, start=0, count=7))
    assert batches_are_equal(reference[4:], first_batches(shapes, workers=1, start=4, count=3))


def test_non_contiguous_category_ids(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    content = {
        "images": [{"id": 5, "file_name": "a.jpg", "height": 40, "width": 60}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 90, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0},
            {"id": 2, "image_id": 5, "category_id": 7, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0},
        ],
        "categories": [{"id": 90, "name": "b"}, {"id": 7, "name": "a"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    (record,) = coco_dataset(str(tmp_path), str(tmp_path / "a.json"), str(tmp_path))
    assert [a["category_id"] for a in record["annotations"]] == [1, 0]
    assert MetadataCatalog.get(str(tmp_path)).thing_classes == ["a", "b"]


def test_shapes_dataset_is_reproducible(shapes: Path, tmp_path: Path) -> None:
    from deim.data.datasets.shapes import write_shapes

    for _ in write_shapes(tmp_path, train_images=3, val_images=1, size=96):
        pass
    for name in ("train/000000.jpg", "train/000002.jpg"):
        assert (tmp_path / name).read_bytes() == (shapes / name).read_bytes()
    content = json.loads((shapes / "annotations" / "instances_train.json").read_text(encoding="utf-8"))
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    assert len({a["category_id"] for a in content["annotations"]}) == 6
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        width, height = sizes[annotation["image_id"]]
        assert 0 <= x < x + w <= width
        assert 0 <= y < y + h <= height


@pytest.mark.parametrize("pinned", [False, True])
def test_packing_preserves_batches(pinned: bool, shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = coco_dataset(
        f"{shapes}_packed", str(shapes / "annotations" / "instances_train.json"), str(shapes / "train")
    )[:4]
    samples = [DetectionMapper([Resize(64)], is_train=True)(record) for record in records]
    packed = pack(samples)
    assert isinstance(packed, PackedBatch)
    assert packed.images.is_shared()
    if pinned:
        if not torch.cuda.is_available():
            monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
        unpinned, packed = packed.images, pin_memory(packed)
        assert packed.images.data_ptr() != unpinned.data_ptr()
    for before, after in zip(samples, unpack(packed), strict=True):
        assert torch.equal(before["image"], after["image"])
        assert torch.equal(before["instances"].gt_boxes.tensor, after["instances"].gt_boxes.tensor)
        assert torch.equal(before["instances"].gt_classes, after["instances"].gt_classes)
        assert before["instances"].image_size == after["instances"].image_size
        for key in ("file_name", "image_id", "height", "width"):
            assert before[key] == after[key]


def test_batches_that_cannot_be_packed_are_unchanged() -> None:
    def sample(size: int, **fields) -> dict:
        instances = Instances(
            (size, size), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0).long(), **fields
        )
        return {"image": torch.zeros(3, size, size, dtype=torch.uint8), "instances": instances}

    for samples in ([sample(4), sample(8)], [sample(4), sample(4, gt_scores=torch.zeros(0))], [{"image": None}]):
        assert pack(samples) is samples
        assert unpack(samples) is samples


class FailingDataset:
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise RuntimeError("the sizes of the tensors differ")


def test_only_dead_workers_are_reported_as_dead() -> None:
    with pytest.raises(RuntimeError, match="the sizes of the tensors differ"), translate_worker_errors():
        next(iter(DataLoader(FailingDataset(), num_workers=1)))
    for message in (
        "DataLoader worker (pid 3) is killed by signal: Killed.",
        "DataLoader worker (pid(s) 3, 4) exited unexpectedly",
    ):
        with pytest.raises(WorkerDiedError, match="running out of memory"), translate_worker_errors():
            raise RuntimeError(message)
