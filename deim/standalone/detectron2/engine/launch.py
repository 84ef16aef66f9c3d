"""Launching of distributed runs."""

import socket
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

__all__ = ["DEFAULT_TIMEOUT", "launch"]

DEFAULT_TIMEOUT = timedelta(minutes=30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(
    main_func, num_gpus_per_machine, num_machines=1, machine_rank=0, dist_url=None, args=(), timeout=DEFAULT_TIMEOUT
):  # fmt: skip
    """Run a function on all ranks. ``launch`` must be called on every machine.

    Args:
        main_func: the function. With a world size of 1, it runs in this process.
        num_gpus_per_machine: number of ranks per machine. They communicate by NCCL on GPUs, otherwise by gloo.
        num_machines: number of machines.
        machine_rank: rank of this machine.
        dist_url: initialization URL of torch.distributed, or "auto" on a single machine.
        args: arguments of the function.
        timeout: timeout of collectives.

    Raises:
        AssertionError: if ``dist_url`` is "auto" and ``num_machines`` is greater than 1.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if dist_url == "auto":
        if num_machines != 1:
            raise AssertionError("dist_url=auto not supported in multi-machine jobs.")
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    mp.start_processes(
        _worker,
        nprocs=num_gpus_per_machine,
        args=(main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args, timeout),
        daemon=False,
    )


def _worker(local_rank, main_func, world_size, per_machine, machine_rank, dist_url, args, timeout):
    on_gpu = torch.cuda.is_available()
    if on_gpu and per_machine > torch.cuda.device_count():
        raise AssertionError(f"{per_machine} processes per machine, but {torch.cuda.device_count()} GPUs")
    rank = machine_rank * per_machine + local_rank
    dist.init_process_group(
        "NCCL" if on_gpu else "GLOO", init_method=dist_url, world_size=world_size, rank=rank, timeout=timeout
    )
    comm.create_local_process_group(per_machine)
    if on_gpu:
        torch.cuda.set_device(local_rank)
    comm.synchronize()
    main_func(*args)
