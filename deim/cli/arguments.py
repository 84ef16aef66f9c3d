"""Command-line arguments shared by several subcommands."""

import argparse
from functools import partial


def add_config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add ``--config-file``, the dataset, switches and config overrides; see :func:`deim.config.load_config`."""
    parser.add_argument(
        "--config-file", default="", required=required, metavar="FILE", help="config file or recipe name"
    )
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="your own dataset instead of the recipe's: a dataset directory or an annotation file; format is detected",
    )
    parser.add_argument("--image-root", metavar="FOLDER", help="image directory of --data; default: detected")
    for option, state in (("--with", True), ("--without", False)):
        parser.add_argument(
            option,
            dest="switches",
            metavar="NAME",
            type=partial(_switch, state=state),
            action="append",
            default=[],
            help=f"turn a component {'on' if state else 'off'}, such as masks; can be repeated",
        )
    add_overrides(parser)


def _switch(name: str, state: bool) -> tuple[str, bool]:
    return name, state


def add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "opts", nargs="*", metavar="key=value", help="config overrides, such as train.output_dir=output/run"
    )


def add_model(parser: argparse.ArgumentParser, exported: bool = False) -> None:
    """Add ``model`` and ``--weights``.

    Args:
        exported: whether exported files are accepted.
    """
    kinds = "checkpoint, exported file (.onnx, .xml)" if exported else "checkpoint"
    parser.add_argument("model", help=f"{kinds}, or recipe name together with --weights")
    parser.add_argument("--weights", help="weights for a recipe name: a checkpoint, or coco for the published weights")


def add_fusion(parser: argparse.ArgumentParser) -> None:
    """Add the options of test-time augmentation and ensembles."""
    parser.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation: also detect in the mirrored image, and fuse the boxes",
    )
    parser.add_argument(
        "--tta-scales",
        type=_numbers,
        metavar="FACTORS",
        help="factors of the input size at which the model also detects, such as 1,1.25; default: 1",
    )
    parser.add_argument(
        "--ensemble",
        action="append",
        default=[],
        metavar="MODEL",
        help="further model with the same classes, whose boxes are fused with those of the first; can be repeated",
    )


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="auto", help="torch device, such as cpu, cuda:1 or mps; default: GPU if available, else CPU"
    )
