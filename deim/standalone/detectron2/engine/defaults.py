"""Command line and setup of training tools."""

import argparse
import logging
import os
import sys

import torch
from detectron2.config import CfgNode, LazyConfig
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import CommonMetricPrinter, JSONWriter, TensorboardXWriter
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from omegaconf import OmegaConf
from torch.nn.parallel import DistributedDataParallel

__all__ = ["create_ddp_model", "default_argument_parser", "default_setup", "default_writers"]


def create_ddp_model(model, *, fp16_compression=False, **kwargs):
    """Wrap a model in DistributedDataParallel if the world size is greater than 1.

    Args:
        model: the model.
        fp16_compression: whether gradients are communicated in float16.
        kwargs: arguments of DistributedDataParallel. ``device_ids`` defaults to the local rank.
    """
    if comm.get_world_size() == 1:
        return model
    kwargs.setdefault("device_ids", [comm.get_local_rank()])
    wrapped = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

        wrapped.register_comm_hook(state=None, hook=fp16_compress_hook)
    return wrapped


def default_argument_parser(epilog=None):
    """Return the command-line parser of training tools.

    Args:
        epilog: text at the end of the help; by default examples.
    """
    program = sys.argv[0]
    parser = argparse.ArgumentParser(
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=epilog
        or f"Examples:\n  {program} --num-gpus 8 --config-file cfg.py\n"
        f"  {program} --config-file cfg.py optimizer.lr=1e-4 train.output_dir=output/run\n",
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="path to config file")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the output folder")
    parser.add_argument("--eval-only", action="store_true", help="perform evaluation only")
    parser.add_argument("--num-gpus", type=int, default=1, help="number of gpus *per machine*")
    parser.add_argument("--num-machines", type=int, default=1, help="total number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="the rank of this machine (unique per machine)")
    # The port depends only on the user, so that leftover processes of an earlier run cause a visible conflict.
    port = 49152 + hash(os.getuid() if hasattr(os, "getuid") else 1) % 16384
    parser.add_argument(
        "--dist-url",
        default=f"tcp://127.0.0.1:{port}",
        help="initialization URL for pytorch distributed backend",
    )
    parser.add_argument(
        "opts", default=None, nargs=argparse.REMAINDER, help='config options to override, as "path.key=value"'
    )
    return parser


def default_setup(cfg, args):
    """Prepare a run: create the output folder, log environment and config, save the config, and seed the generators.

    Args:
        cfg: a lazy config (``train.output_dir``, ``train.seed``, ...) or a yacs config (``OUTPUT_DIR``, ``SEED``, ...).
        args: the parsed command line; ``config_file`` and ``eval_only`` are used.
    """
    output_dir = _first_value(cfg, "OUTPUT_DIR", "output_dir", "train.output_dir")
    if comm.is_main_process() and output_dir:
        PathManager.mkdirs(output_dir)
    rank = comm.get_rank()
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    logger = setup_logger(output_dir, distributed_rank=rank)
    logger.info(f"Rank of current process: {rank}. World size: {comm.get_world_size()}")
    logger.info("Environment info:\n" + collect_env_info())
    logger.info(f"Command line arguments: {args}")
    if getattr(args, "config_file", ""):
        with PathManager.open(args.config_file) as f:
            logger.info(f"Contents of args.config_file={args.config_file}:\n{f.read()}")
    if comm.is_main_process() and output_dir:
        path = os.path.join(output_dir, "config.yaml")
        _save(cfg, path)
        logger.info(f"Full config saved to {path}")

    seed = _first_value(cfg, "SEED", "train.seed", default=-1)
    seed_all_rng(None if seed < 0 else seed + rank)
    if not getattr(args, "eval_only", False):
        benchmark = _first_value(cfg, "CUDNN_BENCHMARK", "train.cudnn_benchmark", default=False)
        torch.backends.cudnn.benchmark = benchmark
    precision = _first_value(cfg, "FLOAT32_PRECISION", "train.float32_precision", default="")
    if precision != "":
        _set_float32_precision(precision)


def _first_value(cfg, *keys: str, default=None):
    """Return the value of the first of several keys that exists in a config."""
    if isinstance(cfg, CfgNode):
        cfg = OmegaConf.create(cfg.dump())
    missing = object()
    values = (OmegaConf.select(cfg, key, default=missing) for key in keys)
    return next((value for value in values if value is not missing), default)


def _save(cfg, path: str) -> None:
    if not isinstance(cfg, CfgNode):
        LazyConfig.save(cfg, path)
        return
    logging.getLogger("detectron2").info(f"Running with full config:\n{cfg.dump()}")
    with PathManager.open(path, "w") as f:
        f.write(cfg.dump())


def _set_float32_precision(precision: str) -> None:
    """Set the precision of float32 matrix products and convolutions on CUDA. "highest" disables TF32."""
    logger = logging.getLogger("detectron2")
    logger.info(f"Set fp32 precision to {precision}")
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"
    logger.info(f"torch.get_float32_matmul_precision()={torch.get_float32_matmul_precision()!r}")
    logger.info(f"torch.backends.cuda.matmul.allow_tf32={torch.backends.cuda.matmul.allow_tf32!r}")
    logger.info(f"torch.backends.cudnn.allow_tf32={torch.backends.cudnn.allow_tf32!r}")


def default_writers(output_dir: str, max_iter: int | None = None):
    """Return the writers for the console, ``metrics.json`` and TensorBoard.

    Args:
        output_dir: output folder, created if needed.
        max_iter: number of iterations, to estimate the remaining time.
    """
    PathManager.mkdirs(output_dir)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]
