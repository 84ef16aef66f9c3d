"""Show a dataset, or the detections and mistakes of a run, in FiftyOne.

    deim view path/to/your/data
    deim view output/deim_dfine_s_coco --threshold 0.5
    deim view output/deim_dfine_s_coco --to fiftyone for_fiftyone

For a run, the best weights are evaluated on its test images: the attribute eval of objects and detections is tp, fp or fn,
and error is the type of an error. --to fiftyone writes the dataset in FiftyOne's format and does not open it.

Requires pip install 'deim[fiftyone]'; --to fiftyone requires nothing.
"""

import argparse
import tempfile
from pathlib import Path

from deim.cli.arguments import add_overrides
from deim.errors import ConfigError
from deim.reporting.dataset_view import open_fiftyone, write_view


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="directory of a run, or a dataset: directory or annotation file")
    parser.add_argument(
        "--to", nargs=2, metavar=("FORMAT", "DIR"), help="write the dataset in the format fiftyone to a directory"
    )
    parser.add_argument("--weights", help="checkpoint of a run; default: model_best.pth or model_final.pth")
    parser.add_argument("--threshold", type=float, default=0.3, help="minimum score; default: %(default)s")
    parser.add_argument("--image-root", metavar="FOLDER", help="image directory of a dataset; default: detected")
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    if args.to is not None and args.to[0] != "fiftyone":
        raise ConfigError(f"--to {args.to[0]}: the only format is fiftyone, as in --to fiftyone DIR")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.to[1] if args.to else temporary)
        name, count = write_view(
            args.source,
            folder,
            weights=args.weights,
            threshold=args.threshold,
            image_root=args.image_root,
            overrides=args.opts,
        )
        if args.to is None:
            open_fiftyone(folder, name)
        else:
            print(f"wrote {count} images to {folder}. Load them with fiftyone.Dataset.from_dir, type FiftyOneDataset")
