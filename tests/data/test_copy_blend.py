"""Copy-blend, the choice between batch operations, and their reproducibility."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances

from deim.config import load_config, switch
from deim.config.switches import with_dense_o2o
from deim.data import build_train_loader, coco_dataset
from deim.data.augmentation import DropSmallBoxes, RandomIoUCrop, RandomZoomOut, ResizeShortestEdge
from deim.data.batch_operations import BatchOperation
from deim.data.copy_blend import CopyBlend
from deim.data.mixup import Mixup
from deim.data.mosaic import Mosaic
from deim.data.staged import StagedMapper
from deim.errors import ConfigError
from deim.schedule import Schedule, Stage

# One iteration per epoch below: iterations 0-1 plain, 2-4 dense, 5-6 strong, 7-8 final.
SCHEDULE = Schedule(epochs=9, dense_epochs=(2, 5), no_aug_epochs=2)
# Mixup in the dense epochs; copy-blend also in the epochs with single images.
OPERATIONS = (Mixup(prob=0.4), CopyBlend(prob=1.0, epochs=(2, None), min_area=16))


def random_sample(generator: np.random.Generator, num_objects: int, size: tuple[int, int] = (48, 64)) -> dict:
    """Return a noise image with random boxes, whose corners are fractions of pixels."""
    height, width = size
    corners = generator.uniform(0, 1, (num_objects, 2, 2)) * [width, height]
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    instances = Instances(
        size,
        gt_boxes=Boxes(torch.from_numpy(boxes.astype(np.float32))),
        gt_classes=torch.from_numpy(generator.integers(0, 80, num_objects)),
    )
    image = torch.from_numpy(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).permute(2, 0, 1)
    return {"image": image, "instances": instances}


class RecordingGenerator:
    """NumPy generator that records its draws."""

    def __init__(self, seed: int):
        self._generator = np.random.default_rng(seed)
        self.draws: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        def draw(*args: Any, **kwargs: Any) -> Any:
            value = getattr(self._generator, name)(*args, **kwargs)
            self.draws.append(value)
            return value

        return draw


def reference_copy_blend(
    sample: dict, sources: Sequence[dict], weight: float, draws: Sequence[Any], expand: bool, blend: bool
) -> tuple[np.ndarray, list[list[int]], list[int]]:
    """Return the image, boxes and classes of a sample after copy-blend, pixel by pixel.

    Args:
        sample, sources, weight: as for ``CopyBlend.apply``.
        draws: numbers of the objects; then for each object its left edge, its upper edge and, with ``expand``, the margin.
        expand: whether objects have a margin.
        blend: whether objects are transparent.
    """
    objects = [
        (source, box, label)
        for source in sources
        for box, label in zip(
            source["instances"].gt_boxes.tensor.tolist(), source["instances"].gt_classes.tolist(), strict=True
        )
    ]
    image = sample["image"].numpy().astype(np.float64)
    height, width = image.shape[1:]
    boxes = sample["instances"].gt_boxes.tensor.tolist()
    classes = sample["instances"].gt_classes.tolist()
    numbers, *rest = draws
    remaining = iter(rest)
    for number in numbers:
        source, (x1, y1, x2, y2), label = objects[number]
        x1, y1, x2, y2 = int(x1), int(y1), int(x2), int(y2)
        if x1 == x2 or y1 == y2:
            continue
        left, top = next(remaining), next(remaining)
        boxes.append([left, top, left + x2 - x1, top + y2 - y1])
        classes.append(label)
        ratio = next(remaining) if expand else 0
        margin_x, margin_y = int((x2 - x1) * ratio), int((y2 - y1) * ratio)
        pixels = source["image"].numpy()
        for y in range(y1 - margin_y, y2 + margin_y):
            for x in range(x1 - margin_x, x2 + margin_x):
                target_x, target_y = x - x1 + left, y - y1 + top
                if not (0 <= x < width and 0 <= y < height and 0 <= target_x < width and 0 <= target_y < height):
                    continue
                for channel in range(3):
                    copied = pixels[channel, y, x]
                    background = image[channel, target_y, target_x]
                    image[channel, target_y, target_x] = (
                        weight * background + (1 - weight) * copied if blend else copied
                    )
    return image, boxes, classes


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("expand_ratio", "blend"), [((0.1, 0.25), True), ((0.1, 0.9), False), (None, True)])
def test_copy_blend_equals_a_loop_over_pixels(seed: int, expand_ratio: tuple | None, blend: bool) -> None:
    generator = np.random.default_rng(seed)
    sources = [random_sample(generator, num_objects) for num_objects in (2, 0, 3)]
    operation = CopyBlend(min_area=0, num_objects=4, expand_ratio=expand_ratio, blend=blend)
    recording = RecordingGenerator(seed)
    sample = sources[seed % 3]
    combined = operation.apply(sample, sources, 0.47, recording)
    image, boxes, classes = reference_copy_blend(
        sample, sources, 0.47, recording.draws, expand_ratio is not None, blend
    )
    # The reference rounds once, and copy-blend after each object.
    assert np.abs(combined["image"].numpy() - image).max() <= (2 if blend else 0)
    assert combined["instances"].gt_boxes.tensor.numpy() == pytest.approx(np.array(boxes).reshape(-1, 4))
    assert combined["instances"].gt_classes.tolist() == classes
    assert len(boxes) > len(sample["instances"]), "the image has new objects"


def test_copied_objects_are_inside_of_the_image_and_keep_size_and_class() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        sources = [random_sample(generator, int(generator.integers(0, 4))) for _ in range(3)]
        before = [source["image"].clone() for source in sources]
        combined = CopyBlend(min_area=9, num_objects=3).apply(sources[0], sources, 0.5, generator)
        assert all(torch.equal(source["image"], image) for source, image in zip(sources, before, strict=True))
        kept = len(sources[0]["instances"])
        new = combined["instances"][kept:]
        everything = Instances.cat([source["instances"] for source in sources])
        large = everything[everything.gt_boxes.area() >= 9]
        assert len(new) <= min(3, len(large))
        possible = {
            (label, int(x2) - int(x1), int(y2) - int(y1))
            for label, (x1, y1, x2, y2) in zip(large.gt_classes.tolist(), large.gt_boxes.tensor.tolist(), strict=True)
        }
        for label, (x1, y1, x2, y2) in zip(new.gt_classes.tolist(), new.gt_boxes.tensor.tolist(), strict=True):
            assert 0 <= x1 < x2 <= 64
            assert 0 <= y1 < y2 <= 48
            assert (label, x2 - x1, y2 - y1) in possible


def test_a_group_without_large_objects_is_unchanged() -> None:
    generator = np.random.default_rng(0)
    empty = random_sample(generator, 0)
    assert CopyBlend().apply(empty, [empty], 0.5, generator) is empty
    small = random_sample(generator, 5, size=(8, 8))
    assert CopyBlend().apply(small, [small], 0.5, generator) is small
    other = random_sample(generator, 1)
    other["instances"].gt_boxes.tensor[:] = torch.tensor([[1.0, 2, 31, 42]])
    combined = CopyBlend().apply(empty, [empty, other], 0.5, generator)
    assert len(combined["instances"]) == 1, "an image without objects gets objects of the others"


def test_positions_objects_and_margins_are_uniform() -> None:
    generator = np.random.default_rng(0)
    size = (40, 60)
    sources = [random_sample(generator, 1, size) for _ in range(4)]
    for label, source in enumerate(sources):
        source["instances"].gt_boxes.tensor[:] = torch.tensor([[20.0, 10, 40, 30]])
        source["instances"].gt_classes[:] = label
    labels: Counter = Counter()
    lefts, tops, counts = [], [], Counter()
    for _ in range(4000):
        combined = CopyBlend(num_objects=2, random_num_objects=True).apply(sources[0], sources, 0.5, generator)
        new = combined["instances"][1:]
        counts[len(new)] += 1
        labels.update(new.gt_classes.tolist())
        assert len(set(new.gt_classes.tolist())) == len(new), "an object is copied once"
        lefts += new.gt_boxes.tensor[:, 0].tolist()
        tops += new.gt_boxes.tensor[:, 1].tolist()
    assert counts[1] == pytest.approx(2000, abs=150)
    assert counts[2] == pytest.approx(2000, abs=150)
    assert min(labels[label] for label in range(4)) > 1300, "6000 objects of 4 images, one of them the image itself"
    assert set(lefts) == set(range(41)), "both ends included"
    assert set(tops) == set(range(21))
    assert np.mean(lefts) == pytest.approx(20, abs=0.6)
    assert np.mean(tops) == pytest.approx(10, abs=0.3)


def test_groups_of_consecutive_images_exchange_objects() -> None:
    operation = CopyBlend(group_size=4)
    assert [list(operation.source_positions(position, 10)) for position in (0, 3, 4, 9)] == [
        [0, 1, 2, 3],
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]


class CountingOperation(BatchOperation):
    """Operation that records the weights of the batches it is applied to."""

    def __init__(self, prob: float, epochs: tuple[int, int | None] | None = None):
        super().__init__(prob, epochs=epochs)
        self.weights: list[float] = []

    def source_positions(self, position: int, batch_size: int) -> Sequence[int]:
        return []

    def apply(self, sample: dict, sources: Sequence[dict], weight: float, generator: np.random.Generator) -> dict:
        self.weights.append(weight)
        return sample


def dataset(shapes: Path) -> list[dict]:
    folder = str(shapes / "train")
    return coco_dataset(f"{shapes}_copy", str(shapes / "annotations" / "instances_train.json"), folder)[:16]


def test_first_drawn_operation_is_applied(shapes: Path) -> None:
    """As in the official code, copy-blend is drawn only if mixup is not, or if the epochs of mixup have ended."""
    schedule = Schedule(epochs=70, dense_epochs=(0, 30), no_aug_epochs=10)
    first, second = CountingOperation(0.5), CountingOperation(0.4, epochs=(10, None))
    loader = build_train_loader(
        dataset(shapes),
        mapper=StagedMapper(schedule, (16, 16)),
        total_batch_size=1,
        num_workers=0,
        seed=1,
        mixup=first,
        batch_operations=[second],
    )
    batches = iter(loader)
    counts = {}
    for start, stop in ((0, 10), (10, 30), (30, 60), (60, 70)):
        for _ in range(16 * (stop - start)):
            next(batches)
        counts[start] = len(first.weights), len(second.weights)
    assert counts[0][0] == pytest.approx(80, abs=22)
    assert counts[0][1] == 0
    assert counts[10][0] - counts[0][0] == pytest.approx(160, abs=30)
    assert counts[10][1] == pytest.approx(320 * 0.5 * 0.4, abs=25)
    assert counts[30][0] == counts[10][0], "the dense epochs have ended"
    assert counts[30][1] - counts[10][1] == pytest.approx(480 * 0.4, abs=38)
    assert counts[60] == counts[30], "the final stage has no operations"
    assert all(0.45 <= weight <= 0.55 for weight in first.weights + second.weights)
    assert np.mean(second.weights) == pytest.approx(0.5, abs=0.01)


def mapper(**options: Any) -> StagedMapper:
    settings = {
        "strong": [RandomZoomOut(), RandomIoUCrop()],
        "weak": [T.RandomFlip()],
        "mosaic": Mosaic(tile_size=64),
        "multi_scale_repeat": 1,
    }
    return StagedMapper(SCHEDULE, (96, 96), **{**settings, **options})


def load_batches(
    shapes: Path,
    start: int,
    count: int,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    operations: Sequence[BatchOperation] = OPERATIONS,
    loader_options: dict | None = None,
    **options: Any,
) -> list[dict]:
    """Return [{slot: sample}] of one rank."""
    with (
        mock.patch("detectron2.utils.comm.get_world_size", return_value=world),
        mock.patch("detectron2.utils.comm.get_rank", return_value=rank),
    ):
        loader = build_train_loader(
            dataset(shapes),
            mapper=mapper(**options),
            total_batch_size=16,
            num_workers=workers,
            seed=5,
            batch_operations=operations,
            **(loader_options or {}),
        )
    loader.start_iter = start
    batches = iter(loader)
    return [dict(zip(loader.sampler.slots, next(batches), strict=True)) for _ in range(count)]


def batches_are_equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        a[slot]["file_name"] == b[slot]["file_name"]
        and torch.equal(a[slot]["image"], b[slot]["image"])
        and torch.equal(a[slot]["instances"].gt_boxes.tensor, b[slot]["instances"].gt_boxes.tensor)
        and torch.equal(a[slot]["instances"].gt_classes, b[slot]["instances"].gt_classes)
        for slot in a
    )


@pytest.fixture(scope="module")
def reference(shapes: Path) -> list[dict]:
    """Return the batches of all 9 iterations, loaded without worker processes."""
    return load_batches(shapes, 0, 9)


def test_operations_are_applied_in_their_epochs(shapes: Path, reference: list[dict]) -> None:
    without = load_batches(shapes, 0, 9, operations=())
    added = [
        sum(len(b[slot]["instances"]) - len(a[slot]["instances"]) for slot in a)
        for a, b in zip(without, reference, strict=True)
    ]
    assert [number > 0 for number in added] == [False, False, True, True, True, True, True, False, False]
    assert added[5:7] == [48, 48], "3 objects for each image"
    for batch in reference:
        for sample in batch.values():
            height, width = sample["image"].shape[1:]
            boxes = sample["instances"].gt_boxes.tensor
            assert (boxes[:, :2] >= 0).all()
            assert (boxes[:, :2] < boxes[:, 2:]).all()
            assert (boxes[:, 2:] <= torch.tensor([width, height])).all()


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_do_not_depend_on_the_number_of_workers(shapes: Path, reference: list[dict], workers: int) -> None:
    batches = load_batches(shapes, 0, 9, workers)
    assert all(batches_are_equal(a, b) for a, b in zip(batches, reference, strict=True))


@pytest.mark.parametrize("world", [2, 4])
def test_batches_do_not_depend_on_the_number_of_ranks(shapes: Path, reference: list[dict], world: int) -> None:
    """With four ranks, a group of 8 images spans two ranks."""
    parts = [load_batches(shapes, 0, 9, rank=rank, world=world) for rank in range(world)]
    for iteration, whole in enumerate(reference):
        joined = {slot: sample for part in parts for slot, sample in part[iteration].items()}
        assert batches_are_equal(joined, whole)


@pytest.mark.parametrize("start", [1, 3, 6, 8])
def test_resumed_run_has_the_same_batches(shapes: Path, reference: list[dict], start: int) -> None:
    batches = load_batches(shapes, start, 9 - start, workers=1)
    assert all(batches_are_equal(a, b) for a, b in zip(batches, reference[start:], strict=True))


def test_mixup_has_the_same_result_under_its_own_key_and_in_the_list(shapes: Path, reference: list[dict]) -> None:
    own_key = load_batches(shapes, 2, 3, operations=OPERATIONS[1:], loader_options={"mixup": OPERATIONS[0]})
    assert all(batches_are_equal(a, b) for a, b in zip(own_key, reference[2:5], strict=True))


def test_with_a_sampler_only_images_of_the_rank_are_combined(shapes: Path) -> None:
    loader_options = {"sampler": [0, 1, 2, 3] * 8}
    operations = (CopyBlend(prob=1.0, epochs=(0, None), min_area=0, num_objects=20),)
    parts = {
        rank: load_batches(
            shapes, 0, 1, rank=rank, world=4, operations=operations, loader_options=loader_options, weak=[]
        )
        for rank in (0, 3)
    }
    for rank, (batch,) in parts.items():
        assert list(batch) == list(range(4 * rank, 4 * rank + 4))
        images = list(batch.values())
        total = len(images[0]["instances"]) - len(dataset(shapes)[0]["annotations"])
        assert total == sum(len(record["annotations"]) for record in dataset(shapes)[:4])


def test_images_have_one_size_in_the_epochs_of_an_operation(shapes: Path) -> None:
    """DETR's resize gives each image a size of its own, but combined images need the same size."""
    batches = load_batches(shapes, 1, 5, resize=[ResizeShortestEdge([64, 80, 96])])
    sizes = [len({sample["image"].shape for sample in batch.values()}) for batch in batches]
    assert sizes[0] > 1
    assert sizes[1:] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda: Mixup(prob=1.5), r"Mixup: prob must be in \[0, 1\], got 1.5"),
        (lambda: Mixup(ratio=(0.6, 0.4)), "ratio must be"),
        (lambda: CopyBlend(epochs=(5, 3)), "epochs must be"),
        (lambda: CopyBlend(epochs=(-1, None)), "epochs must be"),
        (lambda: CopyBlend(num_objects=0), "num_objects must be at least 1"),
        (lambda: CopyBlend(group_size=0), "group_size must be at least 1"),
        (lambda: CopyBlend(expand_ratio=(0.3, 0.1)), "expand_ratio must be"),
    ],
)
def test_invalid_settings_are_reported(operation: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        operation()


def test_operations_require_a_staged_mapper() -> None:
    with pytest.raises(ConfigError, match="batch_operations need a StagedMapper"):
        build_train_loader([{}], mapper=dict, total_batch_size=1, batch_operations=[CopyBlend()])


def test_configs_with_copy_blend() -> None:
    cfg = load_config("deim_dfine/deim_dfine_s_coco", [])
    with_dense_o2o(cfg.dataloader, copy_blend=True)
    schedule = instantiate(cfg.schedule)
    (operation,) = instantiate(cfg.dataloader.train.batch_operations)
    active = [epoch for epoch in range(schedule.epochs) if operation.is_active(epoch, schedule)]
    assert active == list(range(schedule.dense_epochs[0], schedule.final_epoch))
    assert vars(operation) == {**vars(CopyBlend()), "epochs": (schedule.dense_epochs[0], None)}
    cfg = LazyConfig.apply_overrides(cfg, ["dataloader.train.batch_operations.0.prob=0.4"])
    assert instantiate(cfg.dataloader.train.batch_operations)[0].prob == 0.4
    switch(cfg, dense_o2o=False)
    assert list(cfg.dataloader.train.batch_operations) == []


def test_loader_of_a_config_applies_copy_blend(shapes: Path) -> None:
    cfg = load_config("deim_dfine/deim_dfine_n_shapes", [])
    with_dense_o2o(cfg.dataloader, copy_blend=True)
    train = cfg.dataloader.train
    train.mixup, train.batch_operations[0].prob, train.batch_operations[0].min_area = None, 1.0, 0.0
    train.dataset.json_file = str(shapes / "annotations" / "instances_train.json")
    train.dataset.image_root, train.num_workers, train.mapper.mosaic = str(shapes / "train"), 0, None
    schedule = instantiate(cfg.schedule)
    batches = {}
    for number in (0, 3):
        train.batch_operations[0].num_objects = max(number, 1)
        train.batch_operations[0].prob = float(number > 0)
        loader = instantiate(cfg.dataloader.train)
        loader.start_iter = schedule.dense_epochs[1] * loader.iters_per_epoch
        batches[number] = next(iter(loader))
    for before, after in zip(batches[0], batches[3], strict=True):
        assert len(after["instances"]) == len(before["instances"]) + 3


def test_operations_of_other_classes_are_rejected(shapes: Path) -> None:
    with pytest.raises(ConfigError, match="contains a dict, which is not a"):
        build_train_loader(dataset(shapes), mapper=mapper(), total_batch_size=1, batch_operations=[{}])


def test_drop_small_boxes() -> None:
    image, boxes = np.zeros((50, 60, 3), np.uint8), np.array([[0.0, 0, 12, 12], [0, 0, 11.9, 40], [50, 40, 70, 60]])
    augmented = T.AugInput(image, boxes=boxes)
    T.AugmentationList([DropSmallBoxes(12)])(augmented)
    # The image shows 10 x 10 pixels of the last box.
    assert augmented.boxes.tolist() == [[0, 0, 12, 12], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert augmented.image.shape == (50, 60, 3)
    assert isinstance(DropSmallBoxes(12).get_transform(image, np.zeros((0, 4))), T.NoOpTransform)


def test_small_objects_are_dropped_before_and_after_the_resize(shapes: Path) -> None:
    def count(size: int, **options: Any) -> int:
        staged = StagedMapper(SCHEDULE, (size, size), **options)
        samples = [staged.mapper_for(Stage.PLAIN, [])(record) for record in dataset(shapes)]
        return sum(len(sample["instances"]) for sample in samples)

    boxes = np.concatenate([np.array([a["bbox"] for a in record["annotations"]]) for record in dataset(shapes)])
    limit = float(np.median(boxes[:, 2:].min(axis=1)))
    large = int((boxes[:, 2:].min(axis=1) >= limit).sum())
    assert 0 < large < len(boxes)
    assert count(960, weak=[DropSmallBoxes(limit)]) == large
    assert count(960, min_box_size=limit) == len(boxes), "after the resize, all are large"
    assert count(24, min_box_size=limit) == 0


def test_operations_end_with_the_stage_strong() -> None:
    schedule = Schedule(epochs=9, dense_epochs=(1, 3), strong_end_epoch=5, no_aug_epochs=2)
    for epochs, active in {(1, None): [1, 2, 3, 4], (1, 9): [1, 2, 3, 4, 5, 6], None: [1, 2]}.items():
        operation = CopyBlend(epochs=epochs)
        assert [epoch for epoch in range(9) if operation.is_active(epoch, schedule)] == active
