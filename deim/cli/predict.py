"""Detect objects in images and videos.

    deim predict output/deim_dfine_s_coco/model_best.pth photos --output found
    deim predict deim_dfine_s.onnx traffic.mp4 --output found --save images csv
    deim predict deim_dfine/deim_dfine_s_coco 'photos/*.jpg' --weights coco --output found

Files that cannot be read are skipped and listed at the end; the exit status is then 2.
"""

import argparse
import sys

from deim.cli.arguments import add_device, add_model
from deim.inference.batch_predict import PredictionJob
from deim.inference.predictor import Predictor
from deim.inference.tiling import Tiling
from deim.inference.writers import WRITERS

_FORMER_IMAGES = "pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, exported=True)
    parser.add_argument(
        "sources", nargs="+", help="images, directories, glob patterns, videos, or a camera index such as 0"
    )
    parser.add_argument("--output", required=True, help="output directory")
    parser.add_argument(
        "--save",
        nargs="+",
        type=_output_format,
        choices=tuple(WRITERS),
        default=["images"],
        help="output formats; default: images, which are annotated JPEG files (or a video)",
    )
    parser.add_argument("--threshold", type=float, default=0.4, help="minimum score; default: %(default)s")
    parser.add_argument("--classes", nargs="+", default=[], help="names of the classes to keep; default: all")
    parser.add_argument("--tile", type=int, help="tile side in pixels: also detect in tiles, to find small objects")
    parser.add_argument(
        "--overlap", type=float, default=0.2, help="overlap of tiles, as a fraction of --tile; default: %(default)s"
    )
    parser.add_argument("--batch-size", type=int, default=8, help="images per forward pass; default: 8")
    add_device(parser)
    parser.add_argument("--half", action="store_true", help="use float16 autocast (GPU only)")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument("--cuda-graph", action="store_true", help="replay the model as a CUDA graph (GPU only)")


def run(args: argparse.Namespace) -> None:
    tiling = None if args.tile is None else Tiling(args.tile, args.overlap)
    predictor = Predictor(
        args.model,
        args.weights,
        device=args.device,
        threshold=args.threshold,
        half=args.half,
        compile=args.compile,
        cuda_graph=args.cuda_graph,
    )
    print(f"{len(predictor.class_names)} classes, {predictor.runner.description}")
    job = PredictionJob(predictor, args.save, args.output, args.classes, args.batch_size, tiling)
    count = job.run(args.sources)
    print(f"wrote the detections of {count} images to {args.output} as {', '.join(args.save)}")


def _output_format(name: str) -> str:
    """Return the present name of an output format; print a note for the former name of ``images``."""
    if name != _FORMER_IMAGES:
        return name
    print(f"note: --save {_FORMER_IMAGES} is deprecated: use --save images", file=sys.stderr)
    return "images"
