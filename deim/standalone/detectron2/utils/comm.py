"""Rank, world size and object collectives. Without a process group, they return the values of a single process."""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist

_LOCAL_GROUP: Any = None
_LOCAL_SIZE: int | None = None
_GLOO_GROUP: Any = None


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Return the number of ranks on all machines."""
    return dist.get_world_size() if _is_distributed() else 1


def get_rank() -> int:
    """Return the global rank of this process."""
    return dist.get_rank() if _is_distributed() else 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Create the process group of each machine. Call it once on every rank after ``init_process_group``.

    Raises:
        AssertionError: if the world size is not a multiple of ``num_workers_per_machine``, or a group of another size
            exists.
    """
    global _LOCAL_GROUP, _LOCAL_SIZE
    if num_workers_per_machine == _LOCAL_SIZE:
        return
    world_size = get_world_size()
    if _LOCAL_GROUP is not None:
        raise AssertionError(f"The local process group of {_LOCAL_SIZE} processes exists already")
    if world_size % num_workers_per_machine:
        raise AssertionError(
            f"world size {world_size} is not a multiple of {num_workers_per_machine} processes per machine"
        )
    for first_rank in range(0, world_size, num_workers_per_machine):
        members = range(first_rank, first_rank + num_workers_per_machine)
        group = dist.new_group(list(members))
        if get_rank() in members:
            _LOCAL_GROUP, _LOCAL_SIZE = group, num_workers_per_machine


def _local_group() -> Any:
    if _LOCAL_GROUP is None:
        raise AssertionError(
            "The local process group is not yet created. Start the processes with launch(), or call "
            "comm.create_local_process_group() after torch.distributed.init_process_group()."
        )
    return _LOCAL_GROUP


def get_local_rank() -> int:
    """Return the rank of this process within its machine."""
    return dist.get_rank(group=_local_group()) if _is_distributed() else 0


def get_local_size() -> int:
    """Return the number of ranks on this machine."""
    return dist.get_world_size(group=_local_group()) if _is_distributed() else 1


def is_main_process() -> bool:
    return get_rank() == 0


def synchronize() -> None:
    """Wait until all ranks have called this function."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        # Without device_ids, NCCL derives the device from the rank, which is wrong if some GPUs are hidden.
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


def _object_group() -> Any:
    """Return a process group that can send pickled objects from the CPU."""
    global _GLOO_GROUP
    if dist.get_backend() != dist.Backend.NCCL:
        return dist.group.WORLD
    if _GLOO_GROUP is None:
        _GLOO_GROUP = dist.new_group(backend="gloo")
    return _GLOO_GROUP


def all_gather(data: Any, group: Any = None) -> list[Any]:
    """Return the picklable ``data`` of all ranks, in rank order."""
    if get_world_size() == 1:
        return [data]
    group = group or _object_group()
    received: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(received, data, group=group)
    return received


def gather(data: Any, dst: int = 0, group: Any = None) -> list[Any]:
    """Return the picklable ``data`` of all ranks on rank ``dst``, and an empty list on the other ranks."""
    if get_world_size() == 1:
        return [data]
    group = group or _object_group()
    is_destination = dist.get_rank(group) == dst
    received: list[Any] | None = [None] * dist.get_world_size(group) if is_destination else None
    dist.gather_object(data, received, dst=dst, group=group)
    return received if received is not None else []


def shared_random_seed() -> int:
    """Return a random seed from NumPy's generator that is the same on all ranks."""
    return all_gather(np.random.randint(2**31))[0]
