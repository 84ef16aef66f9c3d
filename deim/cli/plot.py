"""Plot loss, learning rate and AP of a run.

    deim plot output/run/metrics.json curves.png

Also prints AP, AP50 and AP75 of the last evaluation.
"""

import argparse

from deim.visualization import draw_metrics, last_scores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("metrics", help="metrics.json of the run")
    parser.add_argument("output", help="PNG file to write")


def run(args: argparse.Namespace) -> None:
    draw_metrics(args.metrics, args.output)
    print("  ".join(f"{name} {value:.1f}" for name, value in last_scores(args.metrics).items()))
    print(f"wrote {args.output}")
