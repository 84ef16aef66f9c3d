"""Launching the ranks of a run, by torchrun or detectron2."""

import functools
import multiprocessing
import os
from argparse import Namespace
from collections.abc import Callable

import torch
import torch.distributed as dist
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm

from deim.errors import ConfigError
from deim.processes import exit_with_parent, forward_signals

# Seconds that a rank gets to log its error after its parent has died. Without a limit, ranks would wait for each other
# forever.
_GRACE_SECONDS = 10


def launch(main: Callable[[Namespace], None], args: Namespace) -> None:
    """Call ``main(args)`` in every rank.

    Under torchrun the ranks already exist, and ``--num-gpus`` and related options are ignored. Otherwise detectron2's
    launcher starts them. Without a GPU, ``--num-gpus N`` starts N ranks on the CPU, connected by gloo.

    Raises:
        ConfigError: if fewer GPUs are available than requested, ``--num-gpus`` is less than 1, or several machines have
            no rendezvous address.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _require_gpus("--nproc-per-node", int(os.environ["LOCAL_WORLD_SIZE"]))
        exit_with_parent(_GRACE_SECONDS)
        _join_torchrun()
        try:
            main(args)
        finally:
            dist.destroy_process_group()
        return
    _require_gpus("--num-gpus", args.num_gpus)
    if args.num_machines > 1 and args.dist_url == "auto":
        raise ConfigError("--num-machines requires --dist-url tcp://HOST:PORT, where HOST is the first machine")
    if args.num_gpus < 1:
        raise ConfigError(f"--num-gpus must be at least 1, got {args.num_gpus}; 1 also works on a CPU")
    machines = {name: getattr(args, name) for name in ("num_machines", "machine_rank", "dist_url")}
    if args.num_gpus * args.num_machines == 1:
        main(args)
        return
    with forward_signals(lambda: [child.pid for child in multiprocessing.active_children() if child.pid]):
        detectron2_launch(functools.partial(_run_rank, main), args.num_gpus, **machines, args=(args,))


def _require_gpus(option: str, processes: int) -> None:
    available = torch.cuda.device_count()
    if available and processes > available:
        raise ConfigError(
            f"{option} {processes}, but this machine has {available} GPUs. Set CUDA_VISIBLE_DEVICES= to run on the CPU"
        )


def _run_rank(main: Callable[[Namespace], None], args: Namespace) -> None:
    exit_with_parent(_GRACE_SECONDS)
    main(args)


def _join_torchrun() -> None:
    """Join the process group that torchrun describes in the environment."""
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local_rank)
    # One store per restart: in a shared one, restarted ranks would find the addresses of dead ones.
    store, rank, size = next(iter(dist.rendezvous("env://")))
    store = dist.PrefixStore(f"start_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=size)
    comm.create_local_process_group(local_size)
    comm.synchronize()
