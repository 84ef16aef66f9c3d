"""The command line and the set-up that training tools share."""

import argparse
import logging
import os
import sys

import torch
from detectron2.config import LazyConfig
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
    """``model`` in DistributedDataParallel where there are several processes.

    Args:
        fp16_compression: halve the traffic by sending gradients in float16.
        kwargs: of DistributedDataParallel; ``device_ids`` defaults to this process's GPU.
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
    """``--config-file --resume --eval-only --num-gpus --num-machines --machine-rank --dist-url opts``."""
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
    # A port that depends on the user only: processes left over from an earlier run show themselves.
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
    """Make the output folder, start logging, log environment and config, save the config, seed."""
    output_dir = OmegaConf.select(cfg, "train.output_dir", default=None)
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
        LazyConfig.save(cfg, path)
        logger.info(f"Full config saved to {path}")

    seed = OmegaConf.select(cfg, "train.seed", default=-1)
    seed_all_rng(None if seed < 0 else seed + rank)
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = OmegaConf.select(cfg, "train.cudnn_benchmark", default=False)
    precision = OmegaConf.select(cfg, "train.float32_precision", default="")
    if precision and torch.cuda.is_available():
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"
        logging.getLogger(__name__).info(f"Set fp32 precision to {precision}")


def default_writers(output_dir: str, max_iter: int | None = None):
    """Console, ``metrics.json`` and TensorBoard."""
    PathManager.mkdirs(output_dir)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]
