"""Loaders of training and test data."""

from collections.abc import Callable, Iterator

import torch
from detectron2.data import build_detection_test_loader
from detectron2.data.common import DatasetFromList
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from deim.data.mapper import DetectionMapper
from deim.data.mixup import Mixup, mix
from deim.data.packing import pack, unpack
from deim.data.records import CompactRecords, Records
from deim.data.sampler import IterationSampler, SampleKey, generators
from deim.data.staged import StagedMapper
from deim.errors import ConfigError
from deim.schedule import Stage


class MappedDataset(Dataset):
    """The samples at keys of a sampler.

    What a sample looks like depends on (seed, iteration, slot) alone.

    Args:
        mapper: record -> sample; or a staged one, whose mapper changes with the iteration.
        mixup: blends batches in the stage of Dense O2O.

    Raises:
        ConfigError: mixup without a staged mapper, which says when.
    """

    def __init__(
        self,
        records: list[dict],
        mapper: Callable[[dict], dict] | StagedMapper,
        sampler: IterationSampler,
        mixup: Mixup | None = None,
    ):
        if mixup is not None and not isinstance(mapper, StagedMapper):
            raise ConfigError("dataloader.train.mixup needs a StagedMapper as dataloader.train.mapper")
        # Other mappers expect detectron2's annotations.
        compact = isinstance(mapper, (StagedMapper, DetectionMapper))
        self.records: Records = CompactRecords(records) if compact else DatasetFromList(records, copy=False)
        self.mapper, self.sampler, self.mixup = mapper, sampler, mixup

    def __len__(self) -> int:
        return len(self.records)

    def __getitems__(self, keys: list[SampleKey]) -> list[dict]:
        """This process's part of one global batch."""
        iteration = keys[0].iteration
        mapper, weight = self._plan(iteration)
        samples = {key.slot: self._sample(mapper, key) for key in keys}
        if weight is None:
            return list(samples.values())
        # The neighbour of this process's first slot belongs to another process: both make it.
        slots = [(key.slot - 1) % self.sampler.total_batch_size for key in keys]
        neighbours = [
            samples[slot] if slot in samples else self._sample(mapper, self.sampler.key(iteration, slot))
            for slot in slots
        ]
        return mix(list(samples.values()), neighbours, weight)

    def _plan(self, iteration: int) -> tuple[Callable[[dict], dict], float | None]:
        """The mapper of an iteration, and the weight of its mixup or None."""
        if not isinstance(self.mapper, StagedMapper):
            return self.mapper, None
        with generators(self.sampler.seed, iteration):
            stage = self.mapper.stage_of(iteration // self.sampler.iters_per_epoch)
            mapper = self.mapper.at(stage, self.records)
            if self.mixup is None or stage is not Stage.DENSE:
                return mapper, None
            return mapper, self.mixup.draw()

    def _sample(self, mapper: Callable[[dict], dict], key: SampleKey) -> dict:
        with generators(self.sampler.seed, key.iteration, key.slot):
            return mapper(self.records[key.index])


class TrainLoader:
    """An endless stream of batches, each a list of samples.

    Set ``start_iter`` before iterating to begin in the middle of a run: the batches are those that
    an uninterrupted run has there.
    """

    def __init__(self, dataset: MappedDataset, sampler: IterationSampler, num_workers: int):
        self.sampler = sampler
        # every size that images may have, as far as it is known
        self.shapes = dataset.mapper.shapes if isinstance(dataset.mapper, StagedMapper) else []
        self._loader = DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=num_workers,
            collate_fn=pack if num_workers else _as_list,
            pin_memory=False,
            persistent_workers=num_workers > 0,
            worker_init_fn=_single_thread if num_workers else None,
        )

    @property
    def start_iter(self) -> int:
        return self.sampler.start_iter

    @start_iter.setter
    def start_iter(self, value: int) -> None:
        self.sampler.start_iter = value

    @property
    def iters_per_epoch(self) -> int:
        return self.sampler.iters_per_epoch

    def __iter__(self) -> Iterator[list[dict]]:
        return map(unpack, self._loader)


def _as_list(samples: list[dict]) -> list[dict]:
    return samples


def _single_thread(worker_id: int) -> None:
    """One core per worker: their own thread pools would only fight each other."""
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def build_train_loader(
    dataset: list[dict],
    *,
    mapper: Callable[[dict], dict] | StagedMapper,
    total_batch_size: int,
    num_workers: int = 4,
    seed: int = -1,
    shuffle: bool = True,
    mixup: Mixup | None = None,
) -> TrainLoader:
    """A loader whose samples depend on (seed, iteration, slot in the global batch) alone.

    Args:
        dataset: detectron2 records.
        mapper: record -> sample, as any mapper of detectron2 or detrex; or a staged one.
        total_batch_size: images per iteration over all processes.
        num_workers: worker processes of this process; 0 loads in the main one.
        seed: negative draws one that all processes share.
        mixup: blends neighbours of the global batch in the stage of Dense O2O.
    """
    seed = comm.shared_random_seed() if seed < 0 else seed
    sampler = IterationSampler(len(dataset), total_batch_size, seed, shuffle)
    return TrainLoader(MappedDataset(dataset, mapper, sampler, mixup), sampler, num_workers)


def build_test_loader(
    dataset: list[dict], *, mapper: Callable[[dict], dict], total_batch_size: int = 1, num_workers: int = 4
) -> DataLoader:
    """detectron2's test loader, with the batch size given over all processes as in training."""
    return build_detection_test_loader(
        dataset,
        mapper=mapper,
        batch_size=max(total_batch_size // comm.get_world_size(), 1),
        num_workers=num_workers,
    )
