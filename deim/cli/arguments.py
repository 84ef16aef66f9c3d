"""Command-line arguments shared by several subcommands."""

import argparse


def add_config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add ``--config-file``, ``--data``, ``--image-root`` and config overrides; see :func:`deim.config.load_config`."""
    parser.add_argument(
        "--config-file", default="", required=required, metavar="FILE", help="config file or recipe name"
    )
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="your own dataset instead of the recipe's: a dataset directory or an annotation file; format is detected",
    )
    parser.add_argument("--image-root", metavar="FOLDER", help="image directory of --data; default: detected")
    add_overrides(parser)


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


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="auto", help="torch device, such as cpu, cuda:1 or mps; default: GPU if available, else CPU"
    )
