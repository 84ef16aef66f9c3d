"""Compare recipes numerically with the official DEIM code.

    python tools/verify.py --peer path/to/official/DEIM --json-file instances.json --image-root images

Both get the same weights, images and noise. Requires the dependencies of the official code: torchvision,
faster-coco-eval.
"""

import argparse

from tqdm import tqdm

from benchmarks import fidelity, official_code
from benchmarks.isolation import run_in_new_process
from deim.config.files import available
from deim.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peer", required=True, help="checkout of the official DEIM code")
    parser.add_argument("--json-file", required=True, help="COCO-format annotations of the training images")
    parser.add_argument("--image-root", required=True, help="directory of the training images")
    parser.add_argument("--recipes", nargs="+", help="recipe names; default: all that the official code has")
    parser.add_argument("--size", type=int, default=320, help="height and width of the images; default: %(default)s")
    parser.add_argument(
        "--batches", type=int, default=4, help="number of distinct batches of two images; default: %(default)s"
    )
    parser.add_argument("--steps", type=int, default=20, help="number of training steps; default: %(default)s")
    parser.add_argument(
        "--every-token",
        action="store_true",
        help="use all tokens as queries instead of the top 300, so that query selection has no effect",
    )


def run(args: argparse.Namespace) -> None:
    official_code.require_checkout(args.peer)
    recipes = args.recipes or _official_recipes()
    for name in recipes:
        official_code.config_path(name)
    samples = fidelity.load_samples(args.json_file, args.image_root, args.size, 2 * args.batches)
    results = {}
    for name in (progress := tqdm(recipes)):
        progress.set_description(name)
        arguments = (name, args.peer, samples, args.size, args.steps, args.every_token)
        results[name] = run_in_new_process(fidelity.compare, *arguments)
    print(fidelity.report(results))
    if not all(result.same_param_groups for result in results.values()):
        raise ConfigError("learning rate or weight decay differs for some parameters; see the report above")


def _official_recipes() -> list[str]:
    """Return the recipes that the official DEIM code has as well."""
    recipes = []
    for name in available():
        try:
            official_code.config_path(name)
        except ConfigError:
            continue
        recipes.append(name)
    return recipes
