"""Train a recipe with its components switched on and off, and compare the results.

    deim ablate --config-file deim_dfine/deim_dfine_n_shapes --switches mal dense_o2o fdr denoising --seeds 0 1 --run

Without --run, nothing is trained: the configs of the runs are written, and the results of the finished runs.
"""

import argparse
from pathlib import Path

from deim.config import SWITCHES
from deim.jobs import ablation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config file or recipe name")
    parser.add_argument("--switches", nargs="+", required=True, help=f"components to switch: {', '.join(SWITCHES)}")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0], help="random seeds; each variant runs once per seed; default: 0"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("output/ablation"),
        help="parent directory of all runs; default: %(default)s",
    )
    parser.add_argument(
        "--all-combinations",
        action="store_true",
        help="all combinations of the switches; default: toggle one at a time",
    )
    parser.add_argument("--run", action="store_true", help="train unfinished runs; default: train nothing")
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs per run; default: %(default)s")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="config overrides for every run")


def run(args: argparse.Namespace) -> None:
    variants = ablation.plan(args.config_file, args.set, args.switches, args.seeds, args.output, args.all_combinations)
    if args.run:
        ablation.run(variants, args.num_gpus)
    print(ablation.write_results(variants, args.output))
    print(f"wrote table.md, results.json, curves.png and the config of every run to {args.output}")
