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
from deim.benchmarks import criterion, dataloader, memory
from deim.command_line import run_tool
from deim.errors import ConfigError


def run_dataloader(args: argparse.Namespace) -> None:
    if (args.json_file is None) != (args.image_root is None):
        raise ConfigError("give both --json-file and --image-root, or neither")
    with tempfile.TemporaryDirectory() as folder:
        if args.json_file is None:
            print("drawing 256 images ...", flush=True)
            args.json_file, args.image_root = dataloader.write_images(Path(folder))
        dataloader.run(args.json_file, args.image_root, args.peer, args.batches, args.threads, args.num_workers)


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
    loading.set_defaults(action=run_dataloader)
    growth = subparsers.add_parser("memory", help="growth of a worker process over an epoch")
    growth.add_argument("--images", type=int, default=118_287, help="size of the data set; COCO's by default")
    growth.set_defaults(action=lambda args: memory.run(args.images))
    losses = subparsers.add_parser("criterion", help="losses of a step beside detrex's, which must be on PYTHONPATH")
    losses.add_argument("--rounds", type=int, default=5)
    losses.set_defaults(action=lambda args: criterion.run(args.rounds))
    args = parser.parse_args()
    sys.exit(run_tool(lambda: args.action(args)))
