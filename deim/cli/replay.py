"""Repeat a training step that had NaN/Inf loss or gradients.

    deim replay output/run/non_finite_0001234_rank0.pth

Prints the losses, the first module with NaN/Inf output and the parameters with NaN/Inf gradients. Draws the batch to a
PNG next to the file.
"""

import argparse
from pathlib import Path

from deim.devices import choose_device
from deim.engine.replay import draw_batch, replay


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("batch", help="non_finite_*.pth in train.output_dir of the run")
    parser.add_argument("--config-file", help="config of the run, if the file does not contain it")
    parser.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda; default: cpu")


def run(args: argparse.Namespace) -> None:
    print(replay(args.batch, args.config_file, str(choose_device(args.device))))
    output = Path(args.batch).with_suffix(".png")
    draw_batch(args.batch, output)
    print(f"wrote the images with their ground truth to {output}")
