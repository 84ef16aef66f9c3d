"""Plot how the D-FINE decoder refines the box edges of its best detections.

    deim draw-distributions output/deim_dfine_s_coco/model_best.pth street.jpg --output distributions.png

Requires a model with DistributionRefinement, such as D-FINE.
"""

import argparse

from deim.cli.arguments import add_model
from deim.inference.distributions import draw_edge_distributions
from deim.inference.trained_model import load_trained


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("image", help="image file")
    parser.add_argument("--output", required=True, help="PNG file to write")
    parser.add_argument("--objects", type=int, default=3, help="number of detections to plot; default: %(default)s")


def run(args: argparse.Namespace) -> None:
    draw_edge_distributions(load_trained(args.model, args.weights), args.image, args.output, args.objects)
    print(f"wrote {args.output}")
