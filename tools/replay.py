#!/usr/bin/env python
"""Do the training step again that ended a run, since a loss or a gradient was not finite.

python tools/replay.py output/run/non_finite_0001234_rank0.pth

Prints the losses and where the numbers stop being finite, and draws the batch beside the file.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import deim  # noqa: F401 - first: it supplies detectron2 and detrex where they are missing
from deim.command_line import run_tool
from deim.engine.replay import draw_batch, replay


def main(path: str, config_file: str | None, device: str) -> None:
    print(replay(path, config_file, device))
    picture = Path(path).with_suffix(".png")
    draw_batch(path, picture)
    print(f"the images and their objects: {picture}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("batch", help="non_finite_*.pth in train.output_dir of the run")
    parser.add_argument("--config-file", help="of the run, where the file does not hold its config")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    sys.exit(run_tool(lambda: main(args.batch, args.config_file, args.device)))
