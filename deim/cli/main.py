"""Command-line entry point: select the subcommand, parse its arguments and run it.

Only the selected subcommand is imported, so ``deim --help`` does not import torch.
"""
# PYTHON_ARGCOMPLETE_OK

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from deim.cli.errors import run_tool
from deim.environment_variables import prepare_environment
from deim.errors import DeimError

# Subcommand name -> summary. Its module has the same name, with underscores.
COMMANDS = {
    "train": "Train a recipe on COCO or on your own dataset.",
    "eval": "Evaluate weights on the test images of a recipe or on your own dataset.",
    "predict": "Detect objects in images, videos and streams.",
    "export": "Export a trained model to ONNX, OpenVINO, TensorRT and other formats.",
    "report": "Write an HTML report of a finished run: scores, classes, errors, thresholds, sample images.",
    "demo": "Try a model in the browser.",
    "zoo": "List the recipes with their published AP and weights.",
    "check-data": "Check a dataset before training: counts, classes, sizes, problems, sample images.",
    "split": "Split a dataset for validation or cross-validation, keeping near-duplicate images together.",
    "view-data": "Draw the first training batch of an epoch as the model receives it.",
    "view": "Show a dataset, or the detections and mistakes of a run, in FiftyOne.",
    "plot": "Plot loss, learning rate and AP of a run.",
    "compare-runs": "Compare runs: a table of scores and a plot of AP.",
    "draw-predictions": "Draw detections next to the ground truth for the first test images.",
    "draw-distributions": "Plot how the D-FINE decoder refines the box edges of its best detections.",
    "convert": "Convert checkpoints between the official, detrex, Hugging Face and native formats.",
    "push": "Publish a model on the Hugging Face Hub, with a model card.",
    "ablate": "Train a recipe with its components switched on and off, and compare the results.",
    "tune": "Search over config keys: train with different values, and report the best.",
    "slurm": "Submit a training run to SLURM that resumes after preemption.",
    "replay": "Repeat a training step that had NaN/Inf loss or gradients.",
    "make-shapes": "Generate the small dataset of the quick start.",
    "make-shards": "Pack the images of a COCO-format dataset into tar archives.",
    "prepare-objects365": "Prepare Objects365 v2 for training, as D-FINE does.",
    "benchmark": "Measure the size and the speed of a recipe's model.",
    "env": "Print versions, device and kernels in use.",
}
# Former subcommand -> its script in a checkout.
CHECKOUT_COMMANDS = {"verify": "tools/verify.py"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``deim <command> ...``.

    Args:
        argv: words after ``deim``; default: those of the process.

    Returns:
        the exit status.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "_ARGCOMPLETE" in os.environ:
        _complete()
    if arguments and arguments[0] in COMMANDS:
        return run_module(_module_name(arguments[0]), arguments[1:], f"deim {arguments[0]}")
    if arguments and arguments[0] in CHECKOUT_COMMANDS:
        return run_tool(lambda: _require_checkout(arguments[0]))
    parser = _top_parser()
    parser.parse_args(arguments)  # exits on --help, --version and errors
    parser.print_help()
    return 0


def run_script(command: str) -> int:
    """Run a subcommand as a standalone script with the command line of the process.

    Returns:
        the exit status.
    """
    return run_module(_module_name(command), sys.argv[1:], None)


def run_module(name: str, arguments: Sequence[str], program: str | None) -> int:
    """Run a module with the functions ``add_arguments(parser)`` and ``run(args)``.

    Args:
        name: dotted name of the module.
        arguments: words of the command line.
        program: name of the program in messages; None for the name of the script.

    Returns:
        the exit status.
    """
    prepare_environment()
    module = importlib.import_module(name)
    parser = argparse.ArgumentParser(
        prog=program, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    # Options are allowed after config overrides.
    is_intermixed = any(action.dest == "opts" for action in parser._get_positional_actions())
    args = (parser.parse_intermixed_args if is_intermixed else parser.parse_args)(arguments)
    return run_tool(lambda: module.run(args))


def _module_name(command: str) -> str:
    return f"deim.cli.{command.replace('-', '_')}"


def _require_checkout(command: str) -> None:
    raise DeimError(
        f"{command} compares with other code, and is not in the installed package: run "
        f"`python {CHECKOUT_COMMANDS[command]}` in a checkout"
    )


def _top_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS)) + 2
    summaries = "\n".join(f"  {name:{width}}{summary}" for name, summary in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="deim",
        usage="deim <command> [options]",
        description="Train, evaluate and ship real-time detection transformers: DEIM, D-FINE and their relatives.",
        epilog=f"commands:\n{summaries}\n\nHelp for a command: deim train --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    from deim import __version__

    parser.add_argument("--version", action="version", version=f"deim {__version__}")
    parser.add_argument("command", nargs="?", choices=tuple(COMMANDS), metavar="command", help=argparse.SUPPRESS)
    return parser


def _complete() -> None:
    """Print shell completions with argcomplete and exit."""
    import argcomplete

    parser = argparse.ArgumentParser(prog="deim")
    commands = parser.add_subparsers()
    line = os.environ.get("COMP_LINE", "").split()
    for name, summary in COMMANDS.items():
        subparser = commands.add_parser(name, help=summary)
        if name in line[1:2]:
            importlib.import_module(_module_name(name)).add_arguments(subparser)
    argcomplete.autocomplete(parser)
