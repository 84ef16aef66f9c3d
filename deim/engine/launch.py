"""Processes of a run, whoever starts them."""

import os
from argparse import Namespace
from collections.abc import Callable

import torch
import torch.distributed as dist
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm

from deim.errors import ConfigError


def launch(main: Callable[[Namespace], None], args: Namespace) -> None:
    """Call ``main(args)`` in every process that the command line asks for.

    Under torchrun the processes are there already, and ``--num-gpus`` and the like are not looked
    at; otherwise detectron2's launcher starts them. Without a GPU, ``--num-gpus N`` starts N
    processes on the CPU, connected by gloo.

    Raises:
        ConfigError: more GPUs are asked for than there are.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _join_torchrun()
        try:
            main(args)
        finally:
            dist.destroy_process_group()
        return
    available = torch.cuda.device_count()
    if available and args.num_gpus > available:
        raise ConfigError(f"--num-gpus {args.num_gpus}, but this machine has {available}")
    if args.num_gpus < 1:
        raise ConfigError(f"--num-gpus must be at least 1, got {args.num_gpus} (1 also runs on the CPU)")
    machines = {name: getattr(args, name) for name in ("num_machines", "machine_rank", "dist_url")}
    detectron2_launch(main, args.num_gpus, **machines, args=(args,))


def _join_torchrun() -> None:
    """Become a member of the group that torchrun describes in the environment."""
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if cuda else "gloo")
    comm.create_local_process_group(local_size)
    comm.synchronize()
