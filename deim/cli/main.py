"""Find the subcommand, parse its command line, and run it.

Only the subcommand that is asked for is imported, so that ``deim --help`` needs no torch.
"""
# PYTHON_ARGCOMPLETE_OK

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from deim.cli.errors import run_tool
from deim.environment import prepare_environment

# Name of the subcommand -> what it does. The module is named alike, with underscores.
COMMANDS = {
    "train": "Train a recipe, on COCO or on your own data.",
    "eval": "Evaluate weights on the test images of a recipe, or on your own data.",
    "predict": "Detect objects in images and videos.",
    "export": "Export a trained model to ONNX, OpenVINO or TensorRT.",
    "report": "Write an HTML page about a finished run: scores, classes, errors, thresholds, sample images.",
    "demo": "Try a model in the browser.",
    "zoo": "List the recipes, their published AP and their published weights.",
    "check-data": "Check a data set before training: counts, classes, sizes, problems, sample images.",
    "view-data": "Draw the first training batch of an epoch, as the model gets it.",
    "plot": "Draw loss, learning rate and AP of a run.",
    "compare-runs": "Compare runs: a table of their scores, and a plot of their AP.",
    "draw-predictions": "Draw detections beside the ground truth, on the first test images.",
    "draw-distributions": "Draw how D-FINE's decoder refines the edges of its best detections.",
    "convert": "Convert a checkpoint: official, detrex's, Hugging Face's or ours, in either direction.",
    "ablate": "Train a recipe with parts of it switched on and off, and compare.",
    "slurm": "Queue a training run with SLURM, which continues after each preemption.",
    "replay": "Repeat a training step whose loss or gradient was not finite.",
    "make-shapes": "Draw the small data set of the quick start.",
    "make-shards": "Pack the images of a COCO-format data set into tar archives.",
    "prepare-objects365": "Prepare Objects365 v2 for training, as D-FINE does.",
    "benchmark": "Measure speed and memory, beside other implementations in the same run.",
    "verify": "Compare recipes with the official code of DEIM.",
    "env": "Print versions, device and kernels in use.",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line ``deim <command> ...``.

    Args:
        arguments: words after ``deim``; those of the process by default.

    Returns:
        the exit status.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "_ARGCOMPLETE" in os.environ:
        _complete()
    if words and words[0] in COMMANDS:
        return _run(words[0], words[1:], f"deim {words[0]}")
    parser = _top_parser()
    parser.parse_args(words)  # prints the help or the version, or an error
    parser.print_help()
    return 0


def run_script(command: str) -> int:
    """Run a subcommand as a script of its own, with the command line of the process.

    Returns:
        the exit status.
    """
    return _run(command, sys.argv[1:], None)


def _run(command: str, words: Sequence[str], program: str | None) -> int:
    prepare_environment()
    module = _module(command)
    parser = argparse.ArgumentParser(
        prog=program, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    # Options may follow overrides of the config.
    intermixed = any(action.dest == "opts" for action in parser._get_positional_actions())
    args = (parser.parse_intermixed_args if intermixed else parser.parse_args)(words)
    return run_tool(lambda: module.run(args))


def _module(command: str) -> ModuleType:
    return importlib.import_module(f"deim.cli.{command.replace('-', '_')}")


def _top_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS)) + 2
    listed = "\n".join(f"  {name:{width}}{summary}" for name, summary in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="deim",
        usage="deim <command> [options]",
        description="Train, evaluate and ship real-time detection transformers: DEIM, D-FINE and their relatives.",
        epilog=f"commands:\n{listed}\n\nEach explains itself: deim train --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    from deim import __version__

    parser.add_argument("--version", action="version", version=f"deim {__version__}")
    parser.add_argument("command", nargs="?", choices=tuple(COMMANDS), metavar="command", help=argparse.SUPPRESS)
    return parser


def _complete() -> None:
    """Complete the words of a shell's command line, where argcomplete is installed, and end the process."""
    import argcomplete

    parser = argparse.ArgumentParser(prog="deim")
    commands = parser.add_subparsers()
    line = os.environ.get("COMP_LINE", "").split()
    for name, summary in COMMANDS.items():
        subparser = commands.add_parser(name, help=summary)
        if name in line[1:2]:
            _module(name).add_arguments(subparser)
    argcomplete.autocomplete(parser)
