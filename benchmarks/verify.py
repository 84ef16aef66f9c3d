"""Compare recipes numerically with the official code of DEIM, DEIMv2 or EdgeCrafter.

    python tools/verify.py --peer path/to/official/DEIM --json-file instances.json --image-root images
    python tools/verify.py --peer path/to/official/DEIMv2 --json-file instances.json --image-root images
    python tools/verify.py --peer path/to/official/EdgeCrafter/ecdetseg --json-file instances.json --image-root images

Both get the same weights, images and noise. Requires the dependencies of the official code: torchvision,
faster-coco-eval, tensorboard.
"""

import argparse

from tqdm import tqdm

from benchmarks import fidelity, official_code
from benchmarks.isolation import run_in_new_process
from deim.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--peer",
        required=True,
        help="checkout of the official code of DEIM or DEIMv2, or the folder ecdetseg of EdgeCrafter",
    )
    parser.add_argument("--json-file", required=True, help="COCO-format annotations of the training images")
    parser.add_argument("--image-root", required=True, help="directory of the training images")
    parser.add_argument(
        "--recipes",
        nargs="+",
        help="recipe names; default: all recipes that the official code has a config for",
    )
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
    parser.add_argument("--float64", action="store_true", help="compute in float64 instead of float32")


def run(args: argparse.Namespace) -> None:
    recipes = args.recipes or official_code.official_recipes(args.peer)
    for name in recipes:
        official_code.config_path(args.peer, name)
        if name.startswith("ecpose/"):
            raise ConfigError(
                f"models of poses have a comparison of their own: run `python -m benchmarks.ecpose --peer {args.peer}`"
            )
    samples = fidelity.load_samples(args.json_file, args.image_root, args.size, 2 * args.batches)
    results = {}
    for name in (progress := tqdm(recipes)):
        progress.set_description(name)
        arguments = (name, args.peer, samples, args.size, args.steps, args.every_token, args.float64)
        results[name] = run_in_new_process(fidelity.compare, *arguments)
    print(fidelity.report(results))
    if not all(result.same_param_groups for result in results.values()):
        raise ConfigError("learning rate or weight decay differs for some parameters; see the report above")
    if any(result.augmentation_epochs for result in results.values()):
        raise ConfigError("the augmentation of some epochs differs; see the report above")
