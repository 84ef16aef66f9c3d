"""List the recipes with their published AP and weights.

    deim zoo
    deim zoo dfine

AP is the authors' published value on COCO val2017. The names of the weights can be given to train.init_checkpoint and
--weights. --markdown prints the tables of docs/model_zoo.md.
"""

import argparse

from tabulate import tabulate

from deim.config import published, zoo_tables
from deim.config.files import available
from deim.config.results import RESULTS

HEADERS = ("recipe", "published AP", "parameters (M)", "GFLOPs", "ms on a T4", "training hardware", "weights")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("part", nargs="?", default="", help="list only recipes whose names contain this")
    parser.add_argument("--markdown", action="store_true", help="print tables with links, as in docs/model_zoo.md")


def run(args: argparse.Namespace) -> None:
    recipes = [name for name in available() if args.part in name]
    if args.markdown:
        print(zoo_tables.markdown(recipes))
    else:
        print(tabulate([_row(name) for name in recipes], headers=HEADERS, disable_numparse=True))


def _row(recipe: str) -> list[object]:
    weights = ", ".join(file.data for file in published.published_for(recipe))
    result = RESULTS.get(recipe)
    if result is None:
        return [recipe, *[""] * (len(HEADERS) - 2), weights]
    size = [result.parameters, result.gflops, result.latency or ""]
    return [recipe, result.average_precision or "", *size, result.hardware, weights]
