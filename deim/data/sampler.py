"""Which image stands where in which iteration, as a pure function of the seed."""

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.utils import comm
from torch.utils.data import Sampler


@dataclass(frozen=True)
class SampleKey:
    """Place of a sample in the run: iteration, slot in the global batch, index in the data set."""

    iteration: int
    slot: int
    index: int


class IterationSampler(Sampler[list[SampleKey]]):
    """An endless stream of this process's parts of the global batches, from ``start_iter`` on.

    Every epoch is a new permutation of the data set, cut into whole batches; what is left over is
    dropped. A data set smaller than a batch is repeated within it.

    Args:
        dataset_size: number of images, at least 1.
        total_batch_size: over all processes, a multiple of their number.
        seed: of the permutations.
        shuffle: False keeps the order of the data set.

    Raises:
        ValueError: the batch cannot be divided among the processes, or the data set is empty.
    """

    def __init__(self, dataset_size: int, total_batch_size: int, seed: int, shuffle: bool = True):
        world_size = comm.get_world_size()
        if total_batch_size < 1 or total_batch_size % world_size:
            raise ValueError(
                f"total_batch_size {total_batch_size} is no positive multiple of the {world_size} processes"
            )
        if dataset_size < 1:
            raise ValueError("the data set is empty")
        self.dataset_size, self.total_batch_size = dataset_size, total_batch_size
        self.seed, self.shuffle, self.start_iter = seed, shuffle, 0
        self._epoch, self._order = -1, np.empty(0, np.int64)
        share = total_batch_size // world_size
        self.slots = range(comm.get_rank() * share, (comm.get_rank() + 1) * share)

    @property
    def iters_per_epoch(self) -> int:
        return max(self.dataset_size // self.total_batch_size, 1)

    def before(self, keys: Sequence[SampleKey]) -> SampleKey:
        """The sample before this process's part of a global batch, which mixup blends with the first one."""
        return self.key(keys[0].iteration, (keys[0].slot - 1) % self.total_batch_size)

    def key(self, iteration: int, slot: int) -> SampleKey:
        """Which image stands at a slot of the global batch."""
        epoch, within = divmod(iteration, self.iters_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.permutation(epoch)
        place = within * self.total_batch_size + slot
        return SampleKey(iteration, slot, int(self._order[place % self.dataset_size]))

    def permutation(self, epoch: int) -> np.ndarray:
        """(dataset_size,) int64 order of the images in an epoch."""
        if not self.shuffle:
            return np.arange(self.dataset_size)
        return np.random.default_rng([self.seed, epoch]).permutation(self.dataset_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for iteration in itertools.count(self.start_iter):
            yield [self.key(iteration, slot) for slot in self.slots]


class IndexSampler(Sampler[list[SampleKey]]):
    """The batches of a sampler of detectron2, such as ``RepeatFactorTrainingSampler``, from ``start_iter`` on.

    Args:
        indices: an endless stream of this process's indices, the same each time that it is iterated over.
        dataset_size, total_batch_size, seed: as of :class:`IterationSampler`. Indices do not depend on ``seed``.

    Raises:
        ValueError: if the batch cannot be divided among the processes.
    """

    def __init__(self, indices: Iterable[int], dataset_size: int, total_batch_size: int, seed: int):
        self._epochs = IterationSampler(dataset_size, total_batch_size, seed)
        self.indices, self.seed, self.start_iter = indices, seed, 0
        self.total_batch_size, self.slots = total_batch_size, self._epochs.slots

    @property
    def iters_per_epoch(self) -> int:
        """Iterations in which as many images are drawn as the data set has."""
        return self._epochs.iters_per_epoch

    def before(self, keys: Sequence[SampleKey]) -> SampleKey:
        """The last of ``keys``: the indices of other processes are not known here."""
        return keys[-1]

    def __iter__(self) -> Iterator[list[SampleKey]]:
        size = len(self.slots)
        stream = itertools.islice(self.indices, self.start_iter * size, None)
        for iteration in itertools.count(self.start_iter):
            indices = list(itertools.islice(stream, size))
            if len(indices) < size:
                return
            yield [SampleKey(iteration, *pair) for pair in zip(self.slots, indices, strict=True)]


# In place of a slot, for what is drawn once for all samples of an iteration.
WHOLE_BATCH = 2**32 - 1


@contextmanager
def generators(seed: int, iteration: int, slot: int = WHOLE_BATCH) -> Iterator[None]:
    """Within it, the global generators of Python, NumPy and torch depend on the arguments alone;
    after it they go on as before, so that samples made in the main process do not disturb the
    model's own randomness."""
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
