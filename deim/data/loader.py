"""Data loaders for training and testing."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from detectron2.data import build_detection_test_loader
from detectron2.data.common import DatasetFromList
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from deim.cores import available_cores
from deim.data.batch_operations import BatchOperation
from deim.data.cache import ImageCache
from deim.data.instance_fields import InstanceFields
from deim.data.iteration import current_iteration
from deim.data.mapper import DetectionMapper
from deim.data.mixup import Mixup
from deim.data.packing import pack, unpack
from deim.data.records import CompactRecords, Records, annotation_arrays
from deim.data.repeat_factors import repeat_factors
from deim.data.sampler import (
    IndexSampler,
    IterationSampler,
    SampleKey,
    batch_operation_generator,
    seeded_generators,
)
from deim.data.staged import StagedMapper
from deim.errors import ConfigError, DatasetError, DeimError
from deim.processes import ignore_signals_except_from_parent

logger = logging.getLogger("detectron2.deim")


class WorkerDiedError(DeimError):
    """Raised if a data loader worker exits unexpectedly."""


# More consecutive unreadable images than this indicate a failing disk rather than single corrupt files.
_MAX_ATTEMPTS = 20


class MappedDataset(Dataset):
    """Dataset that maps sampler keys to samples.

    A sample depends only on the seed and its key; with a batch operation, also on the other keys of its batch.

    Args:
        records: detectron2 records.
        mapper: record -> sample, or a :class:`StagedMapper`, whose augmentation changes with the iteration.
        sampler: sampler that produces the keys.
        batch_operations: alternatives for combining the samples of a batch, in order; at most one is applied to a batch.
        skip_unreadable: if an image of a sample cannot be read, use the next record instead and add the error messages
            to the sample as ``unreadable``.

    Raises:
        ConfigError: if there are batch operations without a staged mapper, whose schedule defines their epochs, or an
            operation is not a :class:`BatchOperation`.
    """

    def __init__(
        self,
        records: list[dict],
        mapper: Callable[[dict], dict] | StagedMapper,
        sampler: IterationSampler | IndexSampler,
        batch_operations: Sequence[BatchOperation] = (),
        skip_unreadable: bool = False,
    ):
        if batch_operations and not isinstance(mapper, StagedMapper):
            raise ConfigError(
                "dataloader.train.mixup and dataloader.train.batch_operations need a StagedMapper as "
                "dataloader.train.mapper"
            )
        for operation in batch_operations:
            if not isinstance(operation, BatchOperation):
                raise ConfigError(
                    f"dataloader.train.batch_operations contains a {type(operation).__name__}, which is not a "
                    "deim.data.batch_operations.BatchOperation; derive its class from BatchOperation, and do not make it "
                    "a dataclass, because OmegaConf converts dataclasses to config nodes"
                )
        # Mappers from other packages expect detectron2 annotations.
        if isinstance(mapper, (StagedMapper, DetectionMapper)):
            _log_ignored_annotations(records, mapper.fields)
            self.records: Records = mapper.fields.compact(records)
        else:
            self.records = DatasetFromList(records, copy=False)
        self.mapper, self.sampler, self.batch_operations = mapper, sampler, list(batch_operations)
        self.skip_unreadable = skip_unreadable

    def __len__(self) -> int:
        return len(self.records)

    def __getitems__(self, keys: list[SampleKey]) -> list[dict]:
        """Return this rank's part of a global batch."""
        iteration = keys[0].iteration
        mapper, operation, weight = self._draw_batch_settings(iteration)
        samples = {key.slot: self._sample(mapper, key) for key in keys}
        if operation is None:
            return list(samples.values())
        batch = self.sampler.combinable_keys(keys)
        positions = {key.slot: position for position, key in enumerate(batch)}
        combined = []
        for key in keys:
            sources = []
            for position in operation.source_positions(positions[key.slot], len(batch)):
                source = batch[position]
                if source.slot not in samples:  # The sample belongs to another rank, which also makes it.
                    samples[source.slot] = self._sample(mapper, source)
                sources.append(samples[source.slot])
            generator = batch_operation_generator(self.sampler.seed, iteration, key.slot)
            combined.append(operation.apply(samples[key.slot], sources, weight, generator))
        return combined

    def _draw_batch_settings(self, iteration: int) -> tuple[Callable[[dict], dict], BatchOperation | None, float]:
        """Return the mapper, the batch operation (None without one) and the weight for the operation of an iteration."""
        if not isinstance(self.mapper, StagedMapper):
            return self.mapper, None, 1.0
        with seeded_generators(self.sampler.seed, iteration):
            epoch = iteration // self.sampler.iters_per_epoch
            active = [
                operation for operation in self.batch_operations if operation.is_active(epoch, self.mapper.schedule)
            ]
            stage = self.mapper.stage_of(epoch)
            mapper = self.mapper.mapper_for(stage, self.records, combines_images=bool(active))
            for operation in active:
                weight = operation.draw_weight()
                if weight is not None:
                    return mapper, operation, weight
            return mapper, None, 1.0

    def _sample(self, mapper: Callable[[dict], dict], key: SampleKey) -> dict:
        unreadable: list[str] = []
        while True:
            # Each attempt draws new random numbers, so that a mosaic also gets new images.
            slot = key.slot + len(unreadable) * self.sampler.total_batch_size
            with seeded_generators(self.sampler.seed, key.iteration, slot):
                try:
                    sample = mapper(self.records[(key.index + len(unreadable)) % len(self.records)])
                except DatasetError as error:
                    unreadable.append(str(error))
                    if not self.skip_unreadable or len(unreadable) > _MAX_ATTEMPTS:
                        raise
                    continue
            return {**sample, "unreadable": unreadable} if unreadable else sample


class TrainLoader:
    """Endless stream of batches, each a list of samples.

    Iteration starts at ``start_iter`` with the same batches as an uninterrupted run. If ``start_iter`` is None, the
    iteration is read from detectron2's event storage, if there is one, so that trainers that do not know this class
    also resume correctly.

    Args:
        dataset: samples by key.
        sampler: batch sampler.
        num_workers: number of worker processes; 0 loads in the main process.
        max_unreadable_images: maximum number of distinct unreadable images that this rank skips.
    """

    def __init__(
        self,
        dataset: MappedDataset,
        sampler: IterationSampler | IndexSampler,
        num_workers: int,
        max_unreadable_images: int = 0,
    ):
        self.dataset, self.sampler = dataset, sampler
        self.start_iter: int | None = None
        self.max_unreadable_images = max_unreadable_images
        self.unreadable: set[str] = set()
        records = dataset.records
        self.objects_per_image = records.objects_per_image if isinstance(records, CompactRecords) else ()
        # All possible image sizes, unless the mapper resizes each image individually.
        self.shapes = dataset.mapper.shapes if isinstance(dataset.mapper, StagedMapper) else []
        self._loader = DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=num_workers,
            collate_fn=pack if num_workers else _keep_as_list,
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

    @property
    def total_batch_size(self) -> int:
        return self.sampler.total_batch_size

    def __iter__(self) -> Iterator[list[dict]]:
        self.sampler.start_iter = current_iteration() if self.start_iter is None else self.start_iter
        for batch in map(unpack, self._loader):
            for sample in batch:
                self._count_unreadable(sample.pop("unreadable", ()))
            yield batch

    def _count_unreadable(self, unreadable: Iterable[str]) -> None:
        """Count unreadable images and log a warning for each new one.

        Raises:
            DatasetError: if more images are unreadable than allowed.
        """
        for message in unreadable:
            if message in self.unreadable:
                continue
            self.unreadable.add(message)
            if len(self.unreadable) > self.max_unreadable_images:
                raise DatasetError(
                    f"{len(self.unreadable)} images cannot be read, but dataloader.train.max_unreadable_images is "
                    f"{self.max_unreadable_images}; the last one: {message}"
                )
            logger.warning(
                f"{message}; using another image instead "
                f"({len(self.unreadable)} of {self.max_unreadable_images} allowed)"
            )


def _log_ignored_annotations(records: list[dict], fields: InstanceFields) -> None:
    """Log that the loader ignores masks or keypoints, if the first annotated image has any."""
    annotations: list[dict] = next((record["annotations"] for record in records if record.get("annotations")), [])
    names = {"segmentation": fields.masks, "keypoints": fields.keypoints}
    ignored = [name for name, is_used in names.items() if not is_used and any(name in entry for entry in annotations)]
    if ignored:
        arguments = " and ".join("masks=True" if name == "segmentation" else "keypoints=True" for name in ignored)
        logger.info(
            f"Annotations have {' and '.join(ignored)}, which this loader does not read. To read them, set {arguments} "
            "in dataloader.train.mapper"
        )


@contextmanager
def translate_worker_errors() -> Iterator[None]:
    """Convert torch's error for a dead data loader worker to a :class:`WorkerDiedError` with advice.

    torch raises this error at an arbitrary point of the main process. Exceptions of the mapper, which torch re-raises
    from a worker, pass unchanged.

    Raises:
        WorkerDiedError: if a worker has died.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise WorkerDiedError(
            f"{str(error).splitlines()[0]} The most common cause is running out of memory (check dmesg): reduce "
            "dataloader.*.num_workers, the batch size or the image size"
        ) from error


def _keep_as_list(samples: list[dict]) -> list[dict]:
    return samples


def prepare_worker(worker_id: int) -> None:
    """Initialize a worker process.

    The worker uses a single thread, because the thread pools of several workers would compete for the cores. It exits
    with its parent process and leaves signal handling to it.
    """
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    ignore_signals_except_from_parent()


def resolve_num_workers(num_workers: int | None) -> int:
    """Return ``num_workers``; if it is None, the number of cores per rank, but at most 4."""
    if num_workers is not None:
        return num_workers
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
    max_unreadable_images: int = 0,
    image_cache_gb: float = 0.0,
    batch_operations: Sequence[BatchOperation] | None = None,
    repeat_threshold: float | None = None,
) -> TrainLoader:
    """Build a training data loader whose samples depend only on (seed, iteration, slot in the global batch).

    Args:
        dataset: detectron2 records.
        mapper: record -> sample, such as any detectron2 or detrex mapper, or a :class:`StagedMapper`.
        total_batch_size: images per iteration over all ranks.
        num_workers: worker processes of this rank; 0 loads in the main process; None for :func:`resolve_num_workers`.
        seed: random seed. For a negative value, all ranks share a seed drawn at random. None means 0; ``deim train``
            replaces None by ``train.seed``.
        shuffle: whether to permute the images in each epoch.
        sampler: a detectron2 sampler, such as ``RepeatFactorTrainingSampler``: an endless stream of this rank's
            indices. None draws every image once per epoch. With a sampler, ``shuffle`` has no effect and samples also
            depend on the number of ranks; the number of iterations per epoch stays the same.
        mixup: blends neighbors of the global batch; the first of the batch operations.
        max_unreadable_images: maximum number of unreadable images per rank. Each one is replaced by another image
            and logged; 0 stops at the first.
        image_cache_gb: memory in GiB of this rank and its workers for decoded images; 0 decodes images in each epoch.
        batch_operations: alternatives to ``mixup``, such as :class:`deim.data.copy_blend.CopyBlend`: at most one
            operation is applied to a batch, the first that is drawn.
        repeat_threshold: draw images of classes that are in a smaller fraction of the images more often; see
            :func:`deim.data.repeat_factors.repeat_factors`. Epochs become longer. None draws all images equally often.

    Raises:
        ConfigError: if the image cache is too large or the mapper does not support it, the batch cannot be divided
            among the ranks, the batch operations are invalid, or ``repeat_threshold`` is out of range or combined with
            a sampler.
        DatasetError: if the dataset is empty.
    """
    if image_cache_gb:
        if not isinstance(mapper, (StagedMapper, DetectionMapper)):
            raise ConfigError("dataloader.train.image_cache_gb requires StagedMapper or DetectionMapper as the mapper")
        if ImageCache.is_supported():
            mapper.read = ImageCache(image_cache_gb)
        else:
            logger.warning(
                "dataloader.train.image_cache_gb is ignored: this platform does not support a shared image cache"
            )
    seed = 0 if seed is None else comm.shared_random_seed() if seed < 0 else seed
    batches: IterationSampler | IndexSampler
    if sampler is None:
        factors = None if repeat_threshold is None else repeat_factors(dataset, repeat_threshold)
        batches = IterationSampler(len(dataset), total_batch_size, seed, shuffle, factors)
    elif repeat_threshold is not None:
        raise ConfigError("dataloader.train.repeat_threshold cannot be combined with dataloader.train.sampler")
    else:
        batches = IndexSampler(sampler, len(dataset), total_batch_size, seed)
    operations = [operation for operation in (mixup, *(batch_operations or ())) if operation is not None]
    mapped = MappedDataset(dataset, mapper, batches, operations, skip_unreadable=max_unreadable_images > 0)
    return TrainLoader(mapped, batches, resolve_num_workers(num_workers), max_unreadable_images)


def build_test_loader(
    dataset: list[dict],
    *,
    mapper: Callable[[dict], dict],
    total_batch_size: int = 1,
    num_workers: int | None = None,
) -> DataLoader:
    """Build detectron2's test loader; the batch size is the total over all ranks, as in training.

    Args:
        dataset: detectron2 records.
        mapper: record -> sample.
        total_batch_size: images per step over all ranks.
        num_workers: see :func:`build_train_loader`.
    """
    num_workers = resolve_num_workers(num_workers)
    loader = build_detection_test_loader(
        dataset,
        mapper=mapper,
        batch_size=max(total_batch_size // comm.get_world_size(), 1),
        num_workers=num_workers,
    )
    if num_workers:
        loader.worker_init_fn = prepare_worker
    # deim.engine compares these numbers with the limits of the model and the evaluation.
    loader.objects_per_image = [len(annotation_arrays(record)[0]) for record in dataset]
    return loader
