#!/usr/bin/env python
"""Measure speed, beside that of others in the same run.

python tools/benchmark.py dataloader --peer path/to/official/DEIM
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import deim  # noqa: F401 - first: it supplies detectron2 and detrex where they are missing
from deim.benchmarks import (
    attention,
    complexity,
    criterion,
    dataloader,
    evaluator,
    export,
    kernels,
    latency,
    memory,
    training,
)
from deim.command_line import run_tool
from deim.errors import ConfigError


def run_dataloader(args: argparse.Namespace) -> None:
    if (args.json_file is None) != (args.image_root is None):
        raise ConfigError("give both --json-file and --image-root, or neither")
    with tempfile.TemporaryDirectory() as folder:
        if args.json_file is None:
            print("drawing 256 images ...", flush=True)
            args.json_file, args.image_root = dataloader.write_images(Path(folder))
        how = (args.peer, args.batches, args.threads, args.num_workers, args.image_cache)
        dataloader.run(args.json_file, args.image_root, *how)


def run_training(args: argparse.Namespace) -> None:
    batch = (args.images, args.objects, args.size)
    training.run(args.recipe, args.peer, batch, args.rounds, args.device, args.amp, args.others, args.json)


def run_latency(args: argparse.Namespace) -> None:
    how = (args.device, args.compile, args.half, args.json)
    latency.run(args.recipe, args.peer, args.batch, args.size, args.rounds, *how)


def run_kernels(args: argparse.Namespace) -> None:
    kernels.run(args.recipe, (args.images, args.objects, args.size), args.rounds, args.device, args.amp, args.json)


def add_step_options(parser: argparse.ArgumentParser) -> None:
    """What measurements of a training step have in common."""
    add_model_options(parser)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--objects", type=int, default=20, help="of each image")
    parser.add_argument("--amp", choices=("bfloat16",), help="mixed precision")


def add_peer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peer", help="a checkout of the official DEIM code, to measure as well; needs torchvision")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """What measurements of a recipe's model have in common."""
    parser.add_argument("--recipe", default="deim_dfine/deim_dfine_s_coco")
    parser.add_argument("--size", type=int, default=640, help="of the square images")
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What measurements of torch have in common."""
    parser.add_argument("--rounds", type=int, default=10, help="which all that is measured goes through in turns")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--json", help="file to write the figures to, with those of the machine")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subparsers = parser.add_subparsers(required=True)
    loading = subparsers.add_parser("dataloader", help="training images per second")
    loading.add_argument("--peer", help="a checkout of the official DEIM code, to measure as well; needs torchvision")
    loading.add_argument("--json-file", help="COCO-format annotations of your own images; else some are drawn")
    loading.add_argument("--image-root")
    loading.add_argument("--batches", type=int, default=20, help="how many batches of 16 to time")
    loading.add_argument("--threads", type=int, default=1, help="that libraries may use in one process")
    loading.add_argument("--num-workers", type=int, default=0)
    loading.add_argument(
        "--image-cache", type=float, default=0.0, help="gigabytes: ours with decoded images kept as well"
    )
    loading.set_defaults(action=run_dataloader)
    growth = subparsers.add_parser("memory", help="growth of a worker process over an epoch")
    growth.add_argument("--images", type=int, default=118_287, help="size of the data set; COCO's by default")
    growth.set_defaults(action=lambda args: memory.run(args.images))
    losses = subparsers.add_parser("criterion", help="losses of a step beside detrex's, which must be on PYTHONPATH")
    losses.add_argument("--rounds", type=int, default=5)
    losses.set_defaults(action=lambda args: criterion.run(args.rounds))
    step = subparsers.add_parser("train-step", help="parts of a training step, and its memory")
    add_step_options(step)
    add_peer(step)
    step.add_argument(
        "--with",
        dest="others",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a setting of the recipe to measure as well, such as train.compile=True; may be repeated",
    )
    step.set_defaults(action=run_training)
    kinds = subparsers.add_parser("kernels", help="what a training step spends its time in")
    add_step_options(kinds)
    kinds.set_defaults(action=run_kernels)
    deployed = subparsers.add_parser("latency", help="forward pass of the deployed model")
    add_model_options(deployed)
    add_peer(deployed)
    deployed.add_argument("--batch", type=int, default=1)
    deployed.add_argument("--compile", action="store_true", help="measure torch.compile, too")
    deployed.add_argument("--half", action="store_true", help="in float16, where torch deems it safe")
    deployed.set_defaults(action=run_latency)
    exporting = subparsers.add_parser("export", help="exported files in ONNX Runtime and OpenVINO, on the CPU")
    exporting.add_argument("--recipe", default="deim_dfine/deim_dfine_s_coco")
    exporting.add_argument("--peer", help="a checkout of the official DEIM code, to export as well; needs torchvision")
    exporting.add_argument("--size", type=int, default=640, help="of the square images")
    exporting.add_argument("--attention", choices=("grid_sample", "gather"), default="grid_sample")
    exporting.add_argument("--rounds", type=int, default=10, help="which all that is measured goes through in turns")
    exporting.add_argument("--json", help="file to write the figures to, with those of the machine")
    exporting.set_defaults(
        action=lambda args: export.run(args.recipe, args.peer, args.size, args.rounds, args.attention, args.json)
    )
    counting = subparsers.add_parser("model", help="parameters and operations, by part")
    counting.add_argument("--recipe", default="deim_dfine/deim_dfine_s_coco")
    counting.add_argument("--size", type=int, default=640, help="of the square images")
    counting.add_argument("--json", help="file to write the figures to, with those of the machine")
    counting.set_defaults(action=lambda args: complexity.run(args.recipe, args.size, args.json))
    attending = subparsers.add_parser("attention", help="deformable attention by each backend")
    attending.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="of values")
    attending.add_argument("--cases", type=int, help="only the first so many")
    add_options(attending)
    attending.set_defaults(
        action=lambda args: attention.run(args.rounds, args.cases, args.device, args.dtype, args.json)
    )
    evaluating = subparsers.add_parser("evaluator", help="COCO's evaluation")
    evaluating.add_argument("--images", type=int, default=5000)
    evaluating.add_argument("--detections", type=int, default=100, help="of each image")
    evaluating.add_argument("--json", help="file to write the figures to, with those of the machine")
    evaluating.set_defaults(action=lambda args: evaluator.run(args.images, args.detections, args.json))
    args = parser.parse_args()
    sys.exit(run_tool(lambda: args.action(args)))
