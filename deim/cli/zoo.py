"""List the recipes with their published AP and weights.

    deim zoo
    deim zoo dfine

AP is the authors' published value on COCO val2017. The names of the weights can be given to train.init_checkpoint and
--weights.
"""

import argparse

from tabulate import tabulate

from deim.config import published
from deim.config.files import available
from deim.config.results import RESULTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("part", nargs="?", default="", help="list only recipes whose names contain this")


def run(args: argparse.Namespace) -> None:
    rows = []
    for name in available():
        if args.part in name:
            result = RESULTS.get(name)
            weights = ", ".join(one.data for one in published.published_for(name))
            cited = [result.average_precision, result.hardware] if result else ["", ""]
            rows.append([name, *cited, weights])
    print(tabulate(rows, headers=["recipe", "published AP", "trained on", "weights"], disable_numparse=True))
