"""Arguments that several subcommands have in common."""

import argparse


def add_config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add ``--config-file``, ``--data``, ``--image-root`` and overrides, which :func:`deim.config.load_config` takes."""
    parser.add_argument(
        "--config-file", default="", required=required, metavar="FILE", help="path of a config, or the name of a recipe"
    )
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="your own data in place of the recipe's: a folder or an annotation file, as annotation tools write them",
    )
    parser.add_argument(
        "--image-root", metavar="FOLDER", help="the folder of the images of --data, if it is not found by itself"
    )
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")


def add_model(parser: argparse.ArgumentParser, exported: bool = False) -> None:
    """Add the model and its weights.

    Args:
        exported: the model may be an exported file.
    """
    kinds = "a checkpoint, an exported file (.onnx, .xml)," if exported else "a checkpoint,"
    parser.add_argument("model", help=f"{kinds} or the name of a recipe with --weights")
    parser.add_argument("--weights", help="weights of a recipe: a checkpoint, or coco for the published ones")


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="auto", help="such as cpu, cuda:1 or mps; default: a GPU if there is one, else the CPU"
    )
