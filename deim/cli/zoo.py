"""List the recipes, their published AP and their published weights.

    deim zoo
    deim zoo dfine

AP is cited from the authors, on COCO's validation set. The weights are named as train.init_checkpoint and --weights
take them.
"""

import argparse

from tabulate import tabulate

from deim.config import published
from deim.config.files import available


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("part", nargs="?", default="", help="only recipes whose names contain this")


def run(args: argparse.Namespace) -> None:
    rows = []
    for name in available():
        if args.part in name:
            found = published.of_recipe(name)
            scores = [f"{one.data} {one.average_precision}" for one in found if one.average_precision is not None]
            rows.append([name, ", ".join(scores), ", ".join(one.data for one in found)])
    print(tabulate(rows, headers=["recipe", "published AP", "weights"], disable_numparse=True))
