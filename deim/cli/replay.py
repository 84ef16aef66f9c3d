"""Repeat a training step whose loss or gradient was not finite.

    deim replay output/run/non_finite_0001234_rank0.pth

Prints the losses and where the numbers stop being finite, and draws the batch beside the file.
"""

import argparse
from pathlib import Path

from deim.engine.replay import draw_batch, replay


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("batch", help="non_finite_*.pth in train.output_dir of the run")
    parser.add_argument("--config-file", help="of the run, where the file does not hold its config")
    parser.add_argument("--device", default="cpu")


def run(args: argparse.Namespace) -> None:
    print(replay(args.batch, args.config_file, args.device))
    picture = Path(args.batch).with_suffix(".png")
    draw_batch(args.batch, picture)
    print(f"the images and their objects: {picture}")
