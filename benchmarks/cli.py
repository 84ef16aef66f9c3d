"""Measure speed and memory, optionally side by side with other implementations.

    python tools/benchmark.py dataloader --peer path/to/official/DEIM
    python tools/benchmark.py train-step --help

Every measurement has its own options, which its --help lists.
"""

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import (
    attention,
    criterion,
    dataloader,
    evaluator,
    export,
    formats,
    kernels,
    latency,
    learning,
    memory,
    scaling,
    tracking,
    training,
)
from benchmarks.learning_runs import Settings
from deim.cli.benchmark import (
    add_latency,
    add_model,
    add_model_options,
    add_options,
    add_parser,
    add_recipe,
    measure_latency,
    note_unsupported_dtype,
)
from deim.config import load_config
from deim.config.keypoints import has_keypoints
from deim.config.masks import has_masks
from deim.devices import choose_device
from deim.errors import ConfigError
from deim.inference.export.formats import EXPORTERS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subparsers = parser.add_subparsers(required=True, metavar="measurement")
    for add in (
        _add_dataloader,
        _add_memory,
        _add_criterion,
        _add_train_step,
        _add_kernels,
        _add_latency,
        _add_export,
        _add_formats,
        add_model,
        _add_attention,
        _add_evaluator,
        _add_tracking,
        _add_learning,
        _add_scaling,
    ):
        add(subparsers)


def run(args: argparse.Namespace) -> None:
    if "device" in args:
        args.device = str(choose_device(args.device))
    args.action(args)


def _add_dataloader(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_parser(subparsers, "dataloader", "training images per second of the data loader")
    add_recipe(parser)
    _add_peer(parser)
    parser.add_argument("--json-file", help="COCO annotations of your own images; default: 256 generated images")
    parser.add_argument("--image-root", help="image directory of --json-file")
    parser.add_argument(
        "--batches", type=int, default=20, help="number of batches of 16 images to time; default: %(default)s"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="maximum number of library threads per process; default: %(default)s"
    )
    parser.add_argument(
        "--num-workers", type=int, default=0, help="worker processes; 0 loads in the main process; default: %(default)s"
    )
    parser.add_argument(
        "--image-cache", type=float, default=0.0, help="also measure with a cache of decoded images, of this size in GB"
    )
    parser.set_defaults(action=_dataloader)


def _add_memory(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_parser(subparsers, "memory", "memory growth of a worker process over one epoch")
    parser.add_argument("--images", type=int, default=118_287, help="dataset size; default: that of COCO")
    parser.set_defaults(action=lambda args: memory.run(args.images))


def _add_criterion(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_parser(
        subparsers, "criterion", "time of the loss computation, compared with detrex (must be on PYTHONPATH)"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="number of interleaved measurement rounds; default: %(default)s"
    )
    parser.set_defaults(action=lambda args: criterion.run(args.rounds))


def _add_train_step(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_parser(subparsers, "train-step", "time per phase of a training step, and its memory")
    _add_step_options(parser)
    _add_peer(parser)
    parser.add_argument(
        "--with",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="also measure with this config override, such as train.compile=True; can be repeated",
    )
    parser.set_defaults(action=_training)


def _add_kernels(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_parser(subparsers, "kernels", "time of a training step per kernel")
    _add_step_options(parser)
    parser.set_defaults(action=_kernels)


def _add_latency(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_latency(subparsers)
    _add_peer(parser)
    parser.set_defaults(action=_latency)


def _add_export(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_parser(subparsers, "export", "latency of exported models in ONNX Runtime and OpenVINO on the CPU")
    add_recipe(parser)
    parser.add_argument("--peer", help="checkout of the official DEIM code, exported for comparison; needs torchvision")
    parser.add_argument("--size", type=int, default=640, help="height and width of the images; default: %(default)s")
    parser.add_argument(
        "--attention",
        choices=("grid_sample", "gather"),
        default="grid_sample",
        help="form of deformable attention; default: %(default)s",
    )
    parser.add_argument(
        "--rounds", type=int, default=10, help="number of interleaved measurement rounds; default: %(default)s"
    )
    parser.add_argument("--json", help="JSON file for the results and the machine's specification")
    parser.set_defaults(
        action=lambda args: export.run(args.recipe, args.peer, args.size, args.rounds, args.attention, args.json)
    )


def _add_formats(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_parser(
        subparsers, "formats", "size, agreement with torch and latency of every export format on the CPU"
    )
    add_recipe(parser)
    suffixes = [exporter.suffix for exporter in EXPORTERS]
    parser.add_argument("--suffixes", nargs="+", choices=suffixes, help="formats to measure; default: all")
    parser.add_argument("--size", type=int, default=320, help="height and width of the images; default: %(default)s")
    parser.add_argument(
        "--rounds",
        type=int,
        default=10,
        help="number of interleaved measurement rounds; 0 measures no latency; default: %(default)s",
    )
    parser.add_argument("--json", help="JSON file for the results and the machine's specification")
    parser.set_defaults(action=lambda args: formats.run(args.recipe, args.suffixes, args.size, args.rounds, args.json))


def _add_attention(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_parser(subparsers, "attention", "time of deformable attention per backend")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="dtype of the values; default: %(default)s",
    )
    parser.add_argument(
        "--cases", type=int, metavar="N", help="measure only the first N cases (models and batch sizes); default: all"
    )
    add_options(parser)
    parser.set_defaults(action=lambda args: attention.run(args.rounds, args.cases, args.device, args.dtype, args.json))


def _add_evaluator(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_parser(subparsers, "evaluator", "time of COCO evaluation per implementation")
    parser.add_argument("--images", type=int, default=5000, help="number of images; default: that of COCO val2017")
    parser.add_argument("--detections", type=int, default=100, help="detections per image; default: %(default)s")
    parser.add_argument("--json", help="JSON file for the results and the machine's specification")
    parser.set_defaults(action=lambda args: evaluator.run(args.images, args.detections, args.json))


def _add_tracking(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_parser(subparsers, "tracking", "accuracy of tracking in drawn videos; needs trackeval")
    parser.add_argument(
        "--model", help="checkpoint of the quick start; default: drawn boxes with faults, without a model"
    )
    parser.add_argument("--weights", help="weights for a recipe name")
    parser.add_argument("--videos", type=int, default=5, help="number of videos; default: %(default)s")
    parser.add_argument("--frames", type=int, default=150, help="frames of each video; default: %(default)s")
    parser.add_argument("--device", default="cpu", help="torch device, such as cuda; default: %(default)s")
    parser.add_argument("--json", help="JSON file for the results and the machine's specification")
    parser.set_defaults(
        action=lambda args: tracking.run(args.model, args.weights, args.videos, args.frames, args.device, args.json)
    )


def _add_learning(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_parser(
        subparsers, "learning", "AP over training time and epochs on your own images, from random weights"
    )
    add_recipe(parser)
    parser.set_defaults(recipe="deim_dfine/deim_dfine_n_coco")
    _add_peer(parser)
    parser.add_argument(
        "--peer-python", default=sys.executable, help="Python interpreter for the official code; default: this one"
    )
    parser.add_argument("--data", required=True, help="folder written by `deim check-data --to-coco`")
    parser.add_argument("--image-root", required=True, help="folder of its images")
    parser.add_argument("--test-file", help="COCO file with further images, for the best checkpoint of each run")
    parser.add_argument("--output", required=True, help="folder for the runs and results; finished runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run each; default: 0 1 2")
    for option, default, text in (
        ("--size", 320, "height and width of the images, a multiple of 64"),
        ("--epochs", 60, "number of epochs"),
        ("--final-epochs", 6, "epochs without augmentation at the end"),
        ("--batch-size", 8, "images per step"),
        ("--warmup-iters", 200, "iterations of the warm-up"),
        ("--ema-warmup", 100, "time constant of the EMA's warm-up in iterations"),
        ("--workers", 1, "processes of the data loader"),
    ):
        parser.add_argument(option, type=int, default=default, help=f"{text}; default: %(default)s")
    for option, rate, text in (
        ("--learning-rate", 8e-4, "learning rate of encoder and decoder"),
        ("--backbone-rate", 8e-4, "learning rate of the backbone"),
        ("--ema-decay", 0.99, "decay of the EMA"),
    ):
        parser.add_argument(option, type=float, default=rate, help=f"{text}; default: %(default)s")
    parser.add_argument(
        "--dense-epochs",
        type=int,
        nargs=2,
        default=(9, 30),
        metavar=("START", "END"),
        help="first epoch with Dense O2O, and first epoch after it; default: 9 30",
    )
    parser.add_argument("--initial-weights", help="checkpoint of deim to start from; default: random weights")
    parser.set_defaults(action=_learning)


def _add_scaling(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "scaling",
        help="expected throughput of training on several GPUs (a calculation)",
        description="Calculate the expected throughput of training on several GPUs from measured times.",
    )
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64], help="numbers of GPUs; default: 1 8 64")
    parser.add_argument(
        "--train-step", metavar="FILE", help="result of `train-step --json` on your GPU; default: steps on one H200"
    )
    add_recipe(parser)
    parser.add_argument("--images", type=int, default=4, help="images per step of --train-step; default: %(default)s")
    cluster = scaling.Cluster()
    for name, text in scaling.CLUSTER_OPTIONS.items():
        default = getattr(cluster, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(default), default=default, help=f"{text}; default: %(default)s"
        )
    parser.add_argument("--fp16-compression", action="store_true", help="train.ddp.fp16_compression")
    parser.add_argument("--no-sync-bn", dest="sync_bn", action="store_false", help="train.sync_bn=False")
    parser.add_argument("--json", help="JSON file for constants and results")
    parser.set_defaults(action=_scaling)


def _scaling(args: argparse.Namespace) -> None:
    cluster = scaling.Cluster(**_fields(args, scaling.Cluster))
    workloads = scaling.WORKLOADS
    if args.train_step is not None:
        workloads = (scaling.measured_workload(args.recipe, args.images, args.train_step),)
    scaling.run(workloads, cluster, args.gpus, args.json)


def _learning(args: argparse.Namespace) -> None:
    settings = Settings(**_fields(args, Settings) | {"dense_epochs": tuple(args.dense_epochs)})
    learning.run(settings, args.seeds, args.output, args.peer, args.peer_python, args.test_file)


def _fields(args: argparse.Namespace, dataclass: type) -> dict[str, Any]:
    """Return the arguments that are named like fields of a dataclass."""
    names = {field.name for field in dataclasses.fields(dataclass)}
    return {name: value for name, value in vars(args).items() if name in names}


def _dataloader(args: argparse.Namespace) -> None:
    if (args.json_file is None) != (args.image_root is None):
        raise ConfigError("give both --json-file and --image-root, or neither")
    with tempfile.TemporaryDirectory() as folder:
        if args.json_file is None:
            print("generating 256 images ...", flush=True)
            model = load_config(args.recipe).model
            fields = {"masks": has_masks(model), "keypoints": has_keypoints(model)}
            args.json_file, args.image_root = dataloader.write_images(Path(folder), **fields)
        options = (args.peer, args.batches, args.threads, args.num_workers, args.image_cache)
        dataloader.run(args.recipe, args.json_file, args.image_root, *options)


def _training(args: argparse.Namespace) -> None:
    note_unsupported_dtype(args.device, args.amp)
    batch = (args.images, args.objects, args.size)
    training.run(args.recipe, args.peer, batch, args.rounds, args.device, args.amp, args.overrides, args.json)


def _latency(args: argparse.Namespace) -> None:
    if args.peer is None:
        measure_latency(args)
        return
    note_unsupported_dtype(args.device, "float16" if args.half else None)
    options = (args.device, args.compile, args.half, args.json)
    latency.run(args.recipe, args.peer, args.batch, args.size, args.rounds, *options)


def _kernels(args: argparse.Namespace) -> None:
    note_unsupported_dtype(args.device, args.amp)
    kernels.run(args.recipe, (args.images, args.objects, args.size), args.rounds, args.device, args.amp, args.json)


def _add_step_options(parser: argparse.ArgumentParser) -> None:
    """Add the options shared by measurements of a training step."""
    add_model_options(parser)
    parser.add_argument("--images", type=int, default=4, help="images per batch; default: %(default)s")
    parser.add_argument("--objects", type=int, default=20, help="objects per image; default: %(default)s")
    parser.add_argument("--amp", choices=("bfloat16",), help="mixed precision; default: float32")


def _add_peer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peer", help="checkout of the official code, measured for comparison; needs torchvision")
