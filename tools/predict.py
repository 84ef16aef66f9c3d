#!/usr/bin/env python
"""Detect objects in pictures and videos.

    python tools/predict.py output/deim_dfine_s_coco/model_best.pth photos --output found
    python tools/predict.py deim_dfine_s.onnx traffic.mp4 --output found --save pictures csv
    python tools/predict.py deim_dfine/deim_dfine_s_coco 'photos/*.jpg' --weights coco --output found

What cannot be read is skipped, told at the end, and makes the status 2.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import deim  # noqa: F401 - first: it supplies detectron2 and detrex where they are missing
from deim.command_line import run_tool
from deim.inference.predicting import Job
from deim.inference.predictor import Predictor
from deim.inference.tiling import Tiling
from deim.inference.writers import WRITERS


def predict(args: argparse.Namespace) -> None:
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
    job = Job(predictor, args.save, args.output, args.classes, args.batch_size, tiling)
    count = job.run(args.sources)
    print(f"wrote {', '.join(args.save)} of {count} to {args.output}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint, an exported file (.onnx, .xml), or a recipe with --weights")
    parser.add_argument("sources", nargs="+", help="pictures, folders, patterns, videos, or the number of a camera")
    parser.add_argument("--output", required=True, help="the folder to write to")
    parser.add_argument("--save", nargs="+", choices=tuple(WRITERS), default=["pictures"], help="default: pictures")
    parser.add_argument("--weights", help="of a recipe: a checkpoint, or coco for published ones")
    parser.add_argument("--threshold", type=float, default=0.4, help="lowest score that counts")
    parser.add_argument("--classes", nargs="+", default=[], help="only these, by name")
    parser.add_argument("--tile", type=int, help="look at parts of this many pixels as well, for small objects")
    parser.add_argument("--overlap", type=float, default=0.2, help="of neighbouring parts")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="auto", help="such as cpu or cuda:1")
    parser.add_argument("--half", action="store_true", help="float16, on a GPU")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--cuda-graph", action="store_true", help="on a GPU, replay what was done for the first batch")
    sys.exit(run_tool(lambda: predict(parser.parse_args())))
