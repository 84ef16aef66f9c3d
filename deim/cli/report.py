"""Write an HTML report of a finished run: scores, classes, errors, thresholds, sample images.

    deim report output/deim_dfine_s_coco

Evaluates the best weights of the run on its test images and writes report.html to its output directory.
"""

import argparse

from deim.cli.arguments import add_overrides
from deim.reporting.run_report import write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="train.output_dir of the run")
    parser.add_argument("--weights", help="checkpoint; default: model_best.pth or model_final.pth of the run")
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="config to use instead of the run's config.yaml, for example one that registers datasets",
    )
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    print(f"wrote {write_report(args.folder, args.weights, args.opts, args.config_file)}")
