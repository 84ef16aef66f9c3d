"""Train a recipe on COCO or on your own dataset.

    deim train --config-file deim_dfine/deim_dfine_s_coco --num-gpus 8
    deim train --config-file deim_dfine/deim_dfine_s_coco --data path/to/your/data
    deim train --config-file deim_dfine/deim_dfine_s_coco --num-gpus 8 --resume

Accepts the options of detectron2's training tools, and --data, --image-root and --overwrite. Equivalent to
tools/train_net.py.
"""

import argparse

from deim.cli.arguments import add_config, add_fusion
from deim.engine.launch import launch
from deim.reporting.training import train_and_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, required=False)
    parser.add_argument("--resume", action="store_true", help="resume from the last checkpoint in train.output_dir")
    parser.add_argument("--overwrite", action="store_true", help="first delete an earlier run in train.output_dir")
    parser.add_argument("--eval-only", action="store_true", help="evaluate train.init_checkpoint without training")
    add_fusion(parser)
    add_processes(parser)


def add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs (ranks) per machine; default: %(default)s")
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines; default: %(default)s")
    parser.add_argument(
        "--machine-rank", type=int, default=0, help="rank of this machine, counted from 0; default: %(default)s"
    )
    parser.add_argument(
        "--dist-url",
        default="auto",
        help="rendezvous address of the ranks, such as tcp://HOST:PORT; default: a free port of this machine",
    )


def run(args: argparse.Namespace) -> None:
    launch(train_and_report, args)
