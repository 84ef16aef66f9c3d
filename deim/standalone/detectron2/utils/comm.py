"""Rank, world size and object collectives; every function is a no-op in a single process."""

from typing import Any

import torch
import torch.distributed as dist

_LOCAL_GROUP: Any = None
_GLOO_GROUP: Any = None


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes over all machines."""
    return dist.get_world_size() if _is_distributed() else 1


def get_rank() -> int:
    """Global rank of this process."""
    return dist.get_rank() if _is_distributed() else 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Make the group of this machine's processes; call once in every process after init."""
    global _LOCAL_GROUP
    world_size = get_world_size()
    if world_size % num_workers_per_machine:
        raise ValueError(f"world size {world_size} is no multiple of {num_workers_per_machine} processes per machine")
    for first in range(0, world_size, num_workers_per_machine):
        members = range(first, first + num_workers_per_machine)
        group = dist.new_group(list(members))
        if get_rank() in members:
            _LOCAL_GROUP = group


def get_local_rank() -> int:
    """Rank of this process among those of its machine."""
    return dist.get_rank(group=_LOCAL_GROUP) if _is_distributed() else 0


def get_local_size() -> int:
    """Number of processes on this machine."""
    return dist.get_world_size(group=_LOCAL_GROUP) if _is_distributed() else 1


def is_main_process() -> bool:
    return get_rank() == 0


def synchronize() -> None:
    """Wait until every process has come here."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        # Without a device NCCL guesses one from the rank, wrong on machines that hide some GPUs.
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


def _object_group() -> Any:
    """A group whose backend can carry pickled CPU objects."""
    global _GLOO_GROUP
    if dist.get_backend() != dist.Backend.NCCL:
        return dist.group.WORLD
    if _GLOO_GROUP is None:
        _GLOO_GROUP = dist.new_group(backend="gloo")
    return _GLOO_GROUP


def all_gather(data: Any, group: Any = None) -> list[Any]:
    """Picklable ``data`` of every process, in rank order, on every process."""
    if get_world_size() == 1:
        return [data]
    group = group or _object_group()
    received: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(received, data, group=group)
    return received


def gather(data: Any, dst: int = 0, group: Any = None) -> list[Any]:
    """Picklable ``data`` of every process on rank ``dst``; an empty list on the others."""
    if get_world_size() == 1:
        return [data]
    group = group or _object_group()
    here = dist.get_rank(group) == dst
    received: list[Any] | None = [None] * dist.get_world_size(group) if here else None
    dist.gather_object(data, received, dst=dst, group=group)
    return received if received is not None else []


def shared_random_seed() -> int:
    """One random seed, the same on every process."""
    drawn = int(torch.randint(2**31, (1,)))
    return all_gather(drawn)[0]
