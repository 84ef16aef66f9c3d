#!/usr/bin/env python
"""Write a trained model as ONNX, for OpenVINO or for TensorRT, and check that it finds what torch finds.

    python tools/export.py output/deim_dfine_s_coco/model_best.pth --output deim_dfine_s.onnx

The suffix of --output decides: .onnx, .xml (OpenVINO), .engine (TensorRT). The file takes bytes and knows its classes: use it with
tools/predict.py or deim.Predictor. Needs pip install '.[export]'.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import deim  # noqa: F401 - first: it supplies detectron2 and detrex where they are missing
from deim.command_line import run_tool
from deim.inference.export import exporting
from deim.inference.export.onnx import OPSETS, ExportOptions
from deim.layers.ops import EXPORT_FORMS


def options_of(args: argparse.Namespace) -> ExportOptions:
    return ExportOptions(
        size=None if args.size is None else tuple(args.size),
        dynamic_batch=args.batch is None,
        dynamic_size=args.dynamic_size,
        postprocess=not args.raw,
        attention=args.attention or exporting.usual_attention(args.output),
        opset=args.opset,
        batch=args.batch or 1,
        precision=args.precision,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint, or a recipe with --weights")
    parser.add_argument("--weights", help="of a recipe: a checkpoint, or coco for published ones")
    parser.add_argument("--output", required=True, help="the file to write: .onnx, .xml or .engine")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="default: that of the recipe")
    parser.add_argument("--batch", type=int, help="a fixed number of images; default: any number")
    parser.add_argument("--dynamic-size", action="store_true", help="any height and width that are multiples of 32")
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument(
        "--half", dest="precision", action="store_const", const="float16", help="float16, but for what overflows"
    )
    precision.add_argument(
        "--int8", dest="precision", action="store_const", const="int8", help="8-bit convolutions; needs --images"
    )
    parser.set_defaults(precision="float32")
    parser.add_argument("--raw", action="store_true", help="logits and boxes of all queries, without post-processing")
    parser.add_argument(
        "--attention",
        choices=tuple(EXPORT_FORMS),
        help="default: gather for TensorRT, else grid_sample; plugin is for TensorRT alone",
    )
    parser.add_argument("--opset", type=int, default=OPSETS.start)
    parser.add_argument("--images", help="a folder of pictures to check with, and for int8 to take ranges from")
    args = parser.parse_args()
    sys.exit(
        run_tool(lambda: exporting.export(args.model, args.weights, args.output, options_of(args), args.images, print))
    )
