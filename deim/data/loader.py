"""Loaders of training and test data."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from detectron2.data import build_detection_test_loader
from detectron2.data.common import DatasetFromList
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from deim.cores import available_cores
from deim.data.cache import ImageCache
from deim.data.iteration import current_iteration
from deim.data.mapper import DetectionMapper
from deim.data.mixup import Mixup, mix
from deim.data.packing import pack, unpack
from deim.data.records import CompactRecords, Records, annotation_arrays
from deim.data.sampler import IndexSampler, IterationSampler, SampleKey, generators
from deim.data.staged import StagedMapper
from deim.errors import ConfigError, DatasetError, DeimError
from deim.processes import obey_parent_alone
from deim.schedule import Stage

logger = logging.getLogger("detectron2.deim")


class WorkerDiedError(DeimError):
    """A worker process of a loader has ended before its time."""


# So many broken images in a row are a broken disk.
_MAX_ATTEMPTS = 20


class MappedDataset(Dataset):
    """The samples at keys of a sampler.

    What a sample looks like depends on (seed, iteration, slot) alone.

    Args:
        mapper: record -> sample; or a staged one, whose mapper changes with the iteration.
        mixup: blends batches in the stage of Dense O2O.
        skip_unreadable: in place of a sample of which an image cannot be read, take that of the next record. It says
            so under ``unreadable``.

    Raises:
        ConfigError: mixup without a staged mapper, which says when.
    """

    def __init__(
        self,
        records: list[dict],
        mapper: Callable[[dict], dict] | StagedMapper,
        sampler: IterationSampler | IndexSampler,
        mixup: Mixup | None = None,
        skip_unreadable: bool = False,
    ):
        if mixup is not None and not isinstance(mapper, StagedMapper):
            raise ConfigError("dataloader.train.mixup needs a StagedMapper as dataloader.train.mapper")
        # Other mappers expect detectron2's annotations.
        compact = isinstance(mapper, (StagedMapper, DetectionMapper))
        if compact:
            _log_what_is_left_out(records)
        self.records: Records = CompactRecords(records) if compact else DatasetFromList(records, copy=False)
        self.mapper, self.sampler, self.mixup = mapper, sampler, mixup
        self.skip_unreadable = skip_unreadable

    def __len__(self) -> int:
        return len(self.records)

    def __getitems__(self, keys: list[SampleKey]) -> list[dict]:
        """This process's part of one global batch."""
        iteration = keys[0].iteration
        mapper, weight = self._plan(iteration)
        samples = {key.slot: self._sample(mapper, key) for key in keys}
        if weight is None:
            return list(samples.values())
        # The sample before this process's part may belong to another process: both make it.
        first, own = self.sampler.before(keys), list(samples.values())
        neighbors = [samples[first.slot] if first.slot in samples else self._sample(mapper, first), *own[:-1]]
        return mix(own, neighbors, weight)

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
        unreadable: list[str] = []
        while True:
            # Another attempt is another draw, of other images for a mosaic too.
            slot = key.slot + len(unreadable) * self.sampler.total_batch_size
            with generators(self.sampler.seed, key.iteration, slot):
                try:
                    sample = mapper(self.records[(key.index + len(unreadable)) % len(self.records)])
                except DatasetError as error:
                    unreadable.append(str(error))
                    if not self.skip_unreadable or len(unreadable) > _MAX_ATTEMPTS:
                        raise
                    continue
            return {**sample, "unreadable": unreadable} if unreadable else sample


class TrainLoader:
    """An endless stream of batches, each a list of samples.

    Iterating begins at ``start_iter``: the batches are those that an uninterrupted run has there. Where it is None, the
    iteration is that of detectron2's event storage, if there is one, so that trainers that do not know this class resume
    at the right place.

    Args:
        unreadable_images_allowed: how many different images that cannot be read this process may pass over.
    """

    def __init__(
        self,
        dataset: MappedDataset,
        sampler: IterationSampler | IndexSampler,
        num_workers: int,
        unreadable_images_allowed: int = 0,
    ):
        self.sampler = sampler
        self.start_iter: int | None = None
        self.unreadable_images_allowed = unreadable_images_allowed
        self.unreadable: set[str] = set()
        records = dataset.records
        self.objects_per_image = records.objects_per_image if isinstance(records, CompactRecords) else ()
        # every size that images may have, as far as it is known
        self.shapes = dataset.mapper.shapes if isinstance(dataset.mapper, StagedMapper) else []
        self._loader = DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=num_workers,
            collate_fn=pack if num_workers else _as_list,
            pin_memory=num_workers > 0 and torch.cuda.is_available(),
            persistent_workers=num_workers > 0,
            worker_init_fn=prepare_worker if num_workers else None,
        )

    @property
    def seed(self) -> int:
        return self.sampler.seed

    @seed.setter
    def seed(self, value: int) -> None:
        self.sampler.seed = value

    @property
    def iters_per_epoch(self) -> int:
        return self.sampler.iters_per_epoch

    def __iter__(self) -> Iterator[list[dict]]:
        self.sampler.start_iter = current_iteration() if self.start_iter is None else self.start_iter
        for batch in map(unpack, self._loader):
            for sample in batch:
                self._count(sample.pop("unreadable", ()))
            yield batch

    def _count(self, unreadable: Iterable[str]) -> None:
        """
        Raises:
            DatasetError: more images cannot be read than are allowed.
        """
        for told in unreadable:
            if told in self.unreadable:
                continue
            self.unreadable.add(told)
            if len(self.unreadable) > self.unreadable_images_allowed:
                raise DatasetError(
                    f"{len(self.unreadable)} images cannot be read, and dataloader.train.unreadable_images_allowed is "
                    f"{self.unreadable_images_allowed}; the last: {told}"
                )
            logger.warning(
                f"{told}: another one takes its place "
                f"({len(self.unreadable)} of the {self.unreadable_images_allowed} that may be so)"
            )


def _log_what_is_left_out(records: list[dict]) -> None:
    """Say that masks and keypoints of the first image are not handed over: models that need them would miss them."""
    annotations: list[dict] = next((record["annotations"] for record in records if record.get("annotations")), [])
    found = [name for name in ("segmentation", "keypoints") if any(name in one for one in annotations)]
    if found:
        logger.info(
            f"Annotations have {' and '.join(found)}, of which this loader takes boxes and classes only. Models of masks or "
            "keypoints take detectron2's DatasetMapper, with any augmentations of deim"
        )


@contextmanager
def clear_deaths_of_workers() -> Iterator[None]:
    """Within it, the death of a worker that loads data, which torch raises in whatever the main process is doing, is an
    error that says what to do.

    Raises:
        WorkerDiedError: one has died.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise WorkerDiedError(
            f"{str(error).splitlines()[0]} Most often the machine ran out of memory: lower dataloader.*.num_workers "
            "or the sizes of batches and images; the log of the system (dmesg) tells"
        ) from error


def _as_list(samples: list[dict]) -> list[dict]:
    return samples


def prepare_worker(worker_id: int) -> None:
    """What every worker process does first: it works in a single thread, since thread pools of several would only fight
    each other, ends with the process that started it, and leaves signals to that one."""
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    obey_parent_alone()


def workers_of(asked: int | None) -> int:
    """Return the number of worker processes: what is asked for, or 4, or fewer where this process has fewer cores."""
    if asked is not None:
        return asked
    cores = len(available_cores()) // max(comm.get_local_size(), 1)
    return min(max(cores, 1), 4)


def build_train_loader(
    dataset: list[dict],
    *,
    mapper: Callable[[dict], dict] | StagedMapper,
    total_batch_size: int,
    num_workers: int | None = None,
    seed: int | None = None,
    shuffle: bool = True,
    sampler: Iterable[int] | None = None,
    mixup: Mixup | None = None,
    unreadable_images_allowed: int = 0,
    image_cache_gigabytes: float = 0.0,
) -> TrainLoader:
    """A loader whose samples depend on (seed, iteration, slot in the global batch) alone.

    Args:
        dataset: detectron2 records.
        mapper: record -> sample, as any mapper of detectron2 or detrex; or a staged one.
        total_batch_size: images per iteration over all processes.
        num_workers: worker processes of this process; 0 loads in the main one; None for :func:`workers_of`.
        seed: negative draws one that all processes share. None is 0; ``deim train`` sets it to ``train.seed``.
        sampler: of detectron2, such as ``RepeatFactorTrainingSampler``: an endless stream of this process's indices. None
            draws every image once in an epoch. With it, ``shuffle`` has no effect, samples also depend on the number of
            processes, and an epoch is as many iterations as without it.
        mixup: blends neighbors of the global batch in the stage of Dense O2O.
        unreadable_images_allowed: in place of an image that cannot be read another one is taken, and the log says so,
            until there are more of them than this in a process; 0 ends the run at the first.
        image_cache_gigabytes: memory of this process and its workers for decoded images; 0 decodes them in each epoch.

    Raises:
        ConfigError: a cache that is too large, or for a mapper that is not of ``deim``.
    """
    if image_cache_gigabytes:
        if not isinstance(mapper, (StagedMapper, DetectionMapper)):
            raise ConfigError(
                "dataloader.train.image_cache_gigabytes is for StagedMapper and DetectionMapper, which use it"
            )
        if ImageCache.is_supported():
            mapper.read = ImageCache(image_cache_gigabytes)
        else:
            logger.warning("dataloader.train.image_cache_gigabytes is ignored: this system cannot share an image cache")
    seed = 0 if seed is None else comm.shared_random_seed() if seed < 0 else seed
    batches: IterationSampler | IndexSampler
    if sampler is None:
        batches = IterationSampler(len(dataset), total_batch_size, seed, shuffle)
    else:
        batches = IndexSampler(sampler, len(dataset), total_batch_size, seed)
    mapped = MappedDataset(dataset, mapper, batches, mixup, skip_unreadable=unreadable_images_allowed > 0)
    return TrainLoader(mapped, batches, workers_of(num_workers), unreadable_images_allowed)


def build_test_loader(
    dataset: list[dict],
    *,
    mapper: Callable[[dict], dict],
    total_batch_size: int = 1,
    num_workers: int | None = None,
) -> DataLoader:
    """Build detectron2's test loader, with the batch size given over all processes as in training.

    Args:
        num_workers: as for :func:`build_train_loader`.
    """
    num_workers = workers_of(num_workers)
    loader = build_detection_test_loader(
        dataset,
        mapper=mapper,
        batch_size=max(total_batch_size // comm.get_world_size(), 1),
        num_workers=num_workers,
    )
    if num_workers:
        loader.worker_init_fn = prepare_worker
    # for the limits of the model and the evaluation
    loader.objects_per_image = [len(annotation_arrays(record)[0]) for record in dataset]
    return loader
