"""Deterministic sampling: the image at each batch position of each iteration, as a pure function of the seed."""

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.utils import comm
from torch.utils.data import Sampler

from deim.data.repeat_factors import round_factors
from deim.errors import ConfigError, DatasetError


@dataclass(frozen=True)
class SampleKey:
    """Position of a sample in the run: iteration, slot in the global batch, and dataset index of its image."""

    iteration: int
    slot: int
    index: int


class IterationSampler(Sampler[list[SampleKey]]):
    """Endless stream of this rank's parts of the global batches, starting at ``start_iter``.

    Every epoch is a new permutation of the dataset, split into full batches; an incomplete last batch is dropped. A
    dataset smaller than a batch is repeated within the batch.

    Args:
        dataset_size: number of images, at least 1.
        total_batch_size: images per iteration over all ranks, a multiple of the number of ranks.
        seed: seed of the permutations.
        shuffle: False keeps the order of the dataset.
        repeat_factors: (dataset_size,) mean number of times that an epoch contains each image, at least 1. Each epoch
            rounds them up or down at random, with the same sum in every epoch. None for 1.

    Raises:
        ConfigError: if the batch cannot be divided among the ranks.
        DatasetError: if the dataset is empty.
    """

    def __init__(
        self,
        dataset_size: int,
        total_batch_size: int,
        seed: int,
        shuffle: bool = True,
        repeat_factors: np.ndarray | None = None,
    ):
        if isinstance(total_batch_size, str):
            raise ConfigError(
                f"dataloader.train.total_batch_size={total_batch_size}: only deim train chooses the batch size; set a number"
            )
        world_size = comm.get_world_size()
        if total_batch_size < 1 or total_batch_size % world_size:
            raise ConfigError(
                f"dataloader.train.total_batch_size={total_batch_size} is not a positive multiple of the number of ranks "
                f"({world_size})"
            )
        if dataset_size < 1:
            raise DatasetError("the dataset of dataloader.train has no images")
        self.dataset_size, self.total_batch_size = dataset_size, total_batch_size
        self.repeat_factors = repeat_factors
        # rounded up, so that every image is in every epoch
        self.epoch_size = dataset_size if repeat_factors is None else math.ceil(repeat_factors.sum())
        self.seed, self.shuffle, self.start_iter = seed, shuffle, 0
        self._epoch, self._order = -1, np.empty(0, np.int64)
        share = total_batch_size // world_size
        self.slots = range(comm.get_rank() * share, (comm.get_rank() + 1) * share)

    @property
    def iters_per_epoch(self) -> int:
        return max(self.epoch_size // self.total_batch_size, 1)

    def combinable_keys(self, keys: Sequence[SampleKey]) -> list[SampleKey]:
        """Return the keys of the samples that batch operations combine with this rank's: those of the global batch.

        Args:
            keys: this rank's part of the global batch.
        """
        return [self.key(keys[0].iteration, slot) for slot in range(self.total_batch_size)]

    def key(self, iteration: int, slot: int) -> SampleKey:
        """Return the key of a slot of the global batch."""
        epoch, iteration_in_epoch = divmod(iteration, self.iters_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.permutation(epoch)
        position = iteration_in_epoch * self.total_batch_size + slot
        return SampleKey(iteration, slot, int(self._order[position % self.epoch_size]))

    def permutation(self, epoch: int) -> np.ndarray:
        """Return the order of the images in an epoch, (epoch_size,) int64."""
        generator = np.random.default_rng([self.seed, epoch])
        if self.repeat_factors is None:
            return generator.permutation(self.dataset_size) if self.shuffle else np.arange(self.dataset_size)
        counts = round_factors(self.repeat_factors, self.epoch_size, generator.uniform())
        images = np.repeat(np.arange(self.dataset_size), counts)
        return generator.permutation(images) if self.shuffle else images

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for iteration in itertools.count(self.start_iter):
            yield [self.key(iteration, slot) for slot in self.slots]


class IndexSampler(Sampler[list[SampleKey]]):
    """Batches of a detectron2 sampler, such as ``RepeatFactorTrainingSampler``, starting at ``start_iter``.

    Args:
        indices: an endless stream of this rank's indices, which must be the same for every iterator.
        dataset_size, total_batch_size, seed: see :class:`IterationSampler`. Indices do not depend on ``seed``.

    Raises:
        ConfigError: if the batch cannot be divided among the ranks.
        DatasetError: if the dataset is empty.
    """

    def __init__(self, indices: Iterable[int], dataset_size: int, total_batch_size: int, seed: int):
        self._epoch_sampler = IterationSampler(dataset_size, total_batch_size, seed)
        self.indices, self.seed, self.start_iter = indices, seed, 0
        self.total_batch_size, self.slots = total_batch_size, self._epoch_sampler.slots

    @property
    def iters_per_epoch(self) -> int:
        """Number of iterations that draw as many images as the dataset has."""
        return self._epoch_sampler.iters_per_epoch

    def combinable_keys(self, keys: Sequence[SampleKey]) -> list[SampleKey]:
        """Return ``keys``, because the indices of other ranks are unknown."""
        return list(keys)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        size = len(self.slots)
        stream = itertools.islice(self.indices, self.start_iter * size, None)
        for iteration in itertools.count(self.start_iter):
            indices = list(itertools.islice(stream, size))
            if len(indices) < size:
                return
            yield [SampleKey(iteration, *pair) for pair in zip(self.slots, indices, strict=True)]


# Used instead of a slot for random numbers shared by all samples of an iteration.
WHOLE_BATCH = 2**32 - 1


def batch_operation_generator(seed: int, iteration: int, slot: int) -> np.random.Generator:
    """Return the generator of the random numbers with which a batch operation changes a sample.

    These numbers are independent of those of :func:`seeded_generators`, with which the mapper makes the sample.
    """
    return np.random.default_rng(np.random.SeedSequence([seed, iteration, slot], spawn_key=(1,)))


@contextmanager
def seeded_generators(seed: int, iteration: int, slot: int = WHOLE_BATCH) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch from the arguments; restore their states at exit.

    Restoring keeps samples that are made in the main process from changing the random numbers of the model.
    """
    python, numpy = random.getstate(), np.random.get_state()
    state = np.random.SeedSequence([seed, iteration, slot]).generate_state(3)
    with torch.random.fork_rng(devices=[]):
        random.seed(int(state[0]))
        np.random.seed(int(state[1]))
        torch.random.default_generator.manual_seed(int(state[2]))
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
