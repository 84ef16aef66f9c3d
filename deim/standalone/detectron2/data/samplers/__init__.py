"""Sampler for evaluation."""

import detectron2.utils.comm as comm
from torch.utils.data.sampler import Sampler

__all__ = ["InferenceSampler"]


class InferenceSampler(Sampler):
    """A sampler of this rank's contiguous share of ``range(size)``; the first ranks take the remainder."""

    def __init__(self, size: int):
        if size <= 0:
            raise AssertionError(f"InferenceSampler needs a non-empty dataset, got size {size}")
        share, extra = divmod(size, comm.get_world_size())
        rank = comm.get_rank()
        start = rank * share + min(rank, extra)
        self._local_indices = range(start, start + share + (rank < extra))

    def __iter__(self):
        yield from self._local_indices

    def __len__(self):
        return len(self._local_indices)
