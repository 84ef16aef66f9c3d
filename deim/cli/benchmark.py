"""Measure the size and the speed of a recipe's model.

    deim benchmark model --recipe deim_dfine/deim_dfine_s_coco
    deim benchmark latency --recipe deim_dfine/deim_dfine_s_coco --device cuda --half

Every measurement has its own options, which its --help lists. In a checkout, tools/benchmark.py has
further measurements, and compares the latency with the official code.
"""

import argparse

from deim.devices import PRECISIONS, amp_unsupported_reason, choose_device
from deim.errors import DeimError
from deim.measurement import complexity, latency

# Measurements of this project's own code, which need a checkout.
CHECKOUT_MEASUREMENTS = (
    "attention",
    "criterion",
    "dataloader",
    "evaluator",
    "export",
    "formats",
    "kernels",
    "learning",
    "memory",
    "scaling",
    "tracking",
    "train-step",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subparsers = parser.add_subparsers(required=True, metavar="measurement")
    add_model(subparsers)
    add_latency(subparsers)
    for name in CHECKOUT_MEASUREMENTS:
        # Without a prefix for options, all words are positional, so that every command line gets the message of `_reject`.
        parser = subparsers.add_parser(name, add_help=False, prefix_chars="\0")
        parser.add_argument("arguments", nargs="*", help="options of the measurement")
        parser.set_defaults(action=_reject, measurement=name)


def run(args: argparse.Namespace) -> None:
    if "device" in args:
        args.device = str(choose_device(args.device))
    args.action(args)


def _reject(args: argparse.Namespace) -> None:
    raise DeimError(
        f"{args.measurement} is a measurement of this project's own code, and is not in the installed package: run "
        f"`python tools/benchmark.py {args.measurement}` in a checkout"
    )


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, summary: str
) -> argparse.ArgumentParser:
    """Add the parser of a measurement, with the summary in the list of measurements and in its own help."""
    return subparsers.add_parser(name, help=summary, description=f"Measure the {summary}.")


def add_model(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_parser(subparsers, "model", "parameters and FLOPs per component")
    add_recipe(parser)
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(640, 640),
        metavar=("HEIGHT", "WIDTH"),
        help="size of the image in pixels; default: 640 640",
    )
    parser.add_argument("--json", help="JSON file for the results and the machine's specification")
    parser.set_defaults(action=lambda args: complexity.run(args.recipe, tuple(args.size), args.json))


def add_latency(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = add_parser(subparsers, "latency", "latency of the forward pass of the deployed model")
    add_model_options(parser)
    parser.add_argument("--batch", type=int, default=1, help="images per batch; default: %(default)s")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    parser.add_argument("--half", action="store_true", help="use float16 autocast")
    parser.set_defaults(action=measure_latency)
    return parser


def measure_latency(args: argparse.Namespace) -> None:
    note_unsupported_dtype(args.device, "float16" if args.half else None)
    options = (args.device, args.compile, args.half, args.json)
    latency.run(args.recipe, args.batch, args.size, args.rounds, *options)


def note_unsupported_dtype(device: str, dtype: str | None) -> None:
    """Print a note if training and inference on the device would not use ``dtype``."""
    limitation = amp_unsupported_reason(choose_device(device), PRECISIONS[dtype]) if dtype else None
    if limitation is not None:
        print(
            f"note: {limitation}. Measuring {dtype} nevertheless; deim trains and predicts in another dtype here",
            flush=True,
        )


def add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", default="deim_dfine/deim_dfine_s_coco", help="recipe name; default: %(default)s")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options shared by measurements of a recipe's model."""
    add_recipe(parser)
    parser.add_argument("--size", type=int, default=640, help="height and width of the images; default: %(default)s")
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options shared by measurements of torch code."""
    parser.add_argument(
        "--rounds", type=int, default=10, help="number of interleaved measurement rounds; default: %(default)s"
    )
    parser.add_argument("--device", default="cpu", help="torch device, such as cuda; default: %(default)s")
    parser.add_argument("--json", help="JSON file for the results and the machine's specification")
