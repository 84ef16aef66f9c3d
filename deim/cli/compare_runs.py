"""Compare runs: a table of scores and a plot of AP.

    deim compare-runs output/first output/second --output runs.png

Each folder is the train.output_dir of a run.
"""

import argparse

from deim.visualization.comparison import compare_runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", help="train.output_dir of each run")
    parser.add_argument("--output", required=True, help="PNG file to write")


def run(args: argparse.Namespace) -> None:
    print(compare_runs(args.folders, args.output))
