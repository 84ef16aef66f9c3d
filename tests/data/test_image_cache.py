"""The image cache does not change samples; it is shared by all workers and read-only."""

import multiprocessing
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data.transforms import Augmentation, NoOpTransform, Transform

from deim.data import build_train_loader
from deim.data.augmentation import RandomPhotometricDistort, Resize
from deim.data.cache import ImageCache
from deim.data.image import read_image
from deim.data.mapper import DetectionMapper
from deim.data.mosaic import Mosaic
from deim.data.staged import StagedMapper
from deim.errors import ConfigError, DatasetError
from deim.schedule import Schedule

MEGABYTE = 1 / 1024  # in gigabytes, the unit of ImageCache


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    dataset_records = []
    for number in range(6):
        path = folder / f"{number}.jpg"
        cv2.imwrite(str(path), cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (80, 60)))
        objects = [{"bbox": [10, 10, 50, 40], "bbox_mode": 0, "category_id": 0}]
        dataset_records.append(
            {"file_name": str(path), "height": 60, "width": 80, "image_id": number, "annotations": objects}
        )
    return dataset_records


class CountingReader:
    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __call__(self, file_name: str, size: tuple[int, int] | None = None, reduction: int = 1) -> np.ndarray:
        self.calls.append((file_name, size, reduction))
        return read_image(file_name, size, reduction)


def test_image_is_decoded_once_per_resolution(records: list[dict]) -> None:
    read = CountingReader()
    cache = ImageCache(MEGABYTE, read)
    for _ in range(3):
        for record in records:
            for factor in (1, 2):
                image = cache(record["file_name"], (60, 80), factor)
                assert (image == read_image(record["file_name"], (60, 80), factor)).all()
    assert len(read.calls) == len(set(read.calls)) == 12
    assert cache.used_bytes == 6 * (60 * 80 + 30 * 40) * 3


def test_cached_images_are_read_only(records: list[dict]) -> None:
    cache = ImageCache(MEGABYTE)
    cache(records[0]["file_name"])
    with pytest.raises(ValueError, match="read-only"):
        cache(records[0]["file_name"])[0, 0] = 0


class Darken(Augmentation):
    """User-defined augmentation that changes pixels in place."""

    def get_transform(self, image: np.ndarray) -> Transform:
        image[:] = 0
        return NoOpTransform()


def test_in_place_augmentations_receive_a_copy(records: list[dict]) -> None:
    cache = ImageCache(MEGABYTE)
    for _ in range(2):
        assert DetectionMapper([Darken()], True, read=cache)(records[0])["image"].sum() == 0
    assert (cache(records[0]["file_name"], (60, 80)) == read_image(records[0]["file_name"])).all()


def test_images_beyond_the_budget_are_not_cached(records: list[dict]) -> None:
    read = CountingReader()
    cache = ImageCache(3.5 * 60 * 80 * 3 / 2**30, read)
    for _ in range(2):
        for record in records:
            assert (cache(record["file_name"]) == read_image(record["file_name"])).all()
    assert len(read.calls) == 6 + 3
    assert cache.used_bytes == 3 * 60 * 80 * 3


def test_full_cache_table() -> None:
    def read(file_name: str, size: tuple[int, int] | None = None, reduction: int = 1) -> np.ndarray:
        return np.full((1, 1, 3), int(file_name), np.uint8)

    cache = ImageCache(MEGABYTE, read)
    for _ in range(2):
        for number in range(200):
            assert (cache(str(number)) == number).all()
    assert cache.used_bytes == 3 * 32, "the table has one row per 32 KB, so tiny images fill it before the memory"


def test_errors_are_not_cached(tmp_path: Path, records: list[dict]) -> None:
    cache, path = ImageCache(MEGABYTE), tmp_path / "late.jpg"
    with pytest.raises(DatasetError, match="cannot read image"):
        cache(str(path))
    path.write_bytes(Path(records[0]["file_name"]).read_bytes())
    assert cache(str(path)).shape == (60, 80, 3)
    with pytest.raises(DatasetError, match="its annotations are for 70 x 60"):
        cache(str(path), (60, 70))


def loader(records: list[dict], workers: int, gigabytes: float):
    mapper = StagedMapper(
        Schedule(epochs=2, dense_epochs=(0, 2)),
        (64, 64),
        color=[RandomPhotometricDistort(prob=0.5)],
        mosaic=Mosaic(tile_size=32),
    )
    return build_train_loader(
        records, mapper=mapper, total_batch_size=4, num_workers=workers, seed=3, image_cache_gb=gigabytes
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_cache_does_not_change_batches(records: list[dict], workers: int) -> None:
    plain, cached = loader(records, 0, 0), loader(records, workers, MEGABYTE)
    for _, first, second in zip(range(12), plain, cached, strict=False):
        for sample, cached_sample in zip(first, second, strict=True):
            assert torch.equal(sample["image"], cached_sample["image"])
            assert torch.equal(sample["instances"].gt_boxes.tensor, cached_sample["instances"].gt_boxes.tensor)
    cache = cached._loader.dataset.mapper.read
    assert cache.used_bytes > 0, "images decoded by workers are in the shared cache"


def fill(cache: ImageCache, file_names: list[str]) -> None:
    for name in file_names:
        cache(name)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_the_cache(records: list[dict], method: str) -> None:
    read = CountingReader()
    cache, names = ImageCache(MEGABYTE, read), [record["file_name"] for record in records]
    context = multiprocessing.get_context(method)
    processes = [context.Process(target=fill, args=(cache, part)) for part in (names[:3], names[3:])]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for name in names:
        assert (cache(name) == read_image(name)).all()
    assert not read.calls, "the other processes decoded all images"


@pytest.mark.parametrize("gigabytes", [-1.0, 1e6])
def test_impossible_cache_size_is_an_error(gigabytes: float) -> None:
    with pytest.raises(
        ConfigError, match=r"set dataloader\.train\.image_cache_gb to less than the .* GB of this machine"
    ):
        ImageCache(gigabytes)


def test_cache_with_an_unsupported_mapper_is_an_error(records: list[dict]) -> None:
    with pytest.raises(ConfigError, match="image_cache_gb requires StagedMapper"):
        build_train_loader(records, mapper=dict, total_batch_size=2, num_workers=0, seed=0, image_cache_gb=1.0)


def test_resizing_does_not_change_cached_images(records: list[dict]) -> None:
    cache = ImageCache(MEGABYTE)
    mapper = DetectionMapper([RandomPhotometricDistort(prob=1.0), Resize((32, 32))], True, read=cache)
    for _ in range(3):
        mapper(records[1])
    assert (cache(records[1]["file_name"], (60, 80)) == read_image(records[1]["file_name"])).all()
