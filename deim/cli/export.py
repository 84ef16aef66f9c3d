"""Export a trained model to ONNX, OpenVINO or TensorRT.

    deim export output/deim_dfine_s_coco/model_best.pth --output deim_dfine_s.onnx

The suffix of --output selects the format: .onnx, .xml (OpenVINO), .engine (TensorRT). The exported model takes uint8
images. .onnx and .xml files contain the class names and work with deim predict and deim.Predictor. Their detections are
verified against those of torch. An engine is built from an .onnx file, which is verified; the engine itself is not.

Requires pip install 'deim[export]', for OpenVINO also 'deim[openvino]', for TensorRT also trtexec.
"""

import argparse

from deim.cli.arguments import add_model
from deim.inference.export.export import default_attention_form, export
from deim.inference.export.onnx import OPSETS, ExportOptions
from deim.layers.ops import EXPORT_FORMS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--output", required=True, help="file to write: .onnx, .xml or .engine")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="image size; default: that of the recipe"
    )
    parser.add_argument("--batch", type=int, help="fixed batch size; default: dynamic")
    parser.add_argument(
        "--dynamic-size", action="store_true", help="accept any height and width that are multiples of 32"
    )
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument(
        "--half",
        dest="precision",
        action="store_const",
        const="float16",
        help="compute in float16, except for ops that overflow",
    )
    precision.add_argument(
        "--int8",
        dest="precision",
        action="store_const",
        const="int8",
        help="quantize convolutions to 8 bits; needs --images",
    )
    parser.set_defaults(precision="float32")
    parser.add_argument("--raw", action="store_true", help="output logits and boxes of all queries, not postprocessed")
    parser.add_argument(
        "--attention",
        choices=tuple(EXPORT_FORMS),
        help="form of deformable attention; default: gather for TensorRT, else grid_sample; plugin: TensorRT only",
    )
    parser.add_argument("--opset", type=int, default=OPSETS.start, help=f"ONNX opset; default: {OPSETS.start}")
    parser.add_argument(
        "--images", help="directory of images for verification (default: generated images) and int8 calibration"
    )


def run(args: argparse.Namespace) -> None:
    export(args.model, args.weights, args.output, _options(args), args.images, print)


def _options(args: argparse.Namespace) -> ExportOptions:
    return ExportOptions(
        size=None if args.size is None else tuple(args.size),
        dynamic_batch=args.batch is None,
        dynamic_size=args.dynamic_size,
        postprocess=not args.raw,
        attention=args.attention or default_attention_form(args.output),
        opset=args.opset,
        batch=1 if args.batch is None else args.batch,
        precision=args.precision,
    )
