"""Search over config keys: train with different values, and report the best.

    deim tune --config-file deim_dfine/deim_dfine_s_coco --data path/to/your/data \\
        --search optimizer.lr=1e-5:1e-3:log dataloader.train.total_batch_size=8,16 --trials 20 --study output/search

A range is key=low:high, or key=low:high:log for a logarithmic scale; choices are key=a,b,c. The first trial has the
recipe's own values, if they are among those to try. The same command continues a search that ended early. Requires
pip install 'deim[tune]'.
"""

import argparse
import os
import shlex
from pathlib import Path

import torch

from deim.cli.arguments import add_config
from deim.errors import ConfigError
from deim.jobs.search_results import find_best, write_results
from deim.jobs.tuning import PRUNERS, Search, SearchSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--search",
        nargs="+",
        required=True,
        metavar="KEY=VALUES",
        help="keys and the values to try: a range or choices",
    )
    parser.add_argument("--trials", type=int, required=True, help="number of trials, with those of earlier calls")
    parser.add_argument(
        "--epochs", type=int, help="epochs per trial; all stages are scaled; default: those of the recipe"
    )
    parser.add_argument("--metric", default="", help="metric to maximize; default: train.best_metric, mostly bbox/AP")
    parser.add_argument(
        "--gpus", metavar="LIST", help="GPUs, such as 0,1: one trial at a time on each; default: one trial"
    )
    parser.add_argument(
        "--study", type=Path, default=Path("output/search"), help="directory of the search; default: %(default)s"
    )
    parser.add_argument(
        "--pruner",
        choices=PRUNERS,
        default="median",
        help="how trials that are worse than others after as many evaluations are stopped; default: %(default)s",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampler; default: %(default)s")


def run(args: argparse.Namespace) -> None:
    settings = SearchSettings(
        args.config_file,
        args.search,
        args.data,
        args.image_root,
        dict(args.switches),
        args.opts,
        args.metric,
        args.epochs,
    )
    search = Search(settings, args.study, args.pruner, args.seed)
    search.run(args.trials, _slots(args.gpus), lambda: write_results(search))
    print(write_results(search))
    print(f"plot: {args.study / 'search.png'}")
    best = find_best(search.summaries())
    if best is None:
        raise ConfigError(f"no trial is complete; the output of each trial is in {args.study}/trial*/output.txt")
    print(f"best: trial {best.number}, {search.metric} {best.best:.1f}. Train with its values:")
    print(shlex.join(search.train_command(best.values)))


def _slots(gpus: str | None) -> list[str | None]:
    """Return the value of CUDA_VISIBLE_DEVICES for each simultaneous trial; None to leave the variable as it is.

    Raises:
        ConfigError: if a GPU does not exist.
    """
    if gpus is None:
        return [None]
    available = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if available else []
    if len(visible) != available:  # the variable is not set
        visible = [str(number) for number in range(available)]
    numbers = gpus.split(",")
    if missing := [number for number in numbers if not number.isdecimal() or int(number) >= available]:
        raise ConfigError(
            f"--gpus {gpus}: this machine has {available} GPUs, and none is numbered {', '.join(missing)}"
        )
    return [visible[int(number)] for number in numbers]
