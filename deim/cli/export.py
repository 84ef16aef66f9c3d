"""Export a trained model to ONNX, OpenVINO, TensorRT and other formats.

    deim export output/deim_dfine_s_coco/model_best.pth --output deim_dfine_s.onnx

The suffix of --output selects the format; --formats lists the formats and what they require and support. The exported
model takes uint8 images. It contains the class names and works with deim predict and deim.Predictor. Its detections are
verified against those of torch. An engine is built from an .onnx file, which is verified; the engine itself is not. Core ML
packages are verified on macOS only.

--for writes a folder for an inference server instead: an .onnx file and its configuration.

    deim export output/deim_dfine_s_coco/model_best.pth --for triton --output models/street

Requires pip install 'deim[export]', for other formats than .onnx also the extra that --formats lists, for TensorRT also
trtexec.
"""

import argparse
from typing import Any

from tabulate import tabulate

from deim.cli.arguments import add_model
from deim.inference.export.export import export
from deim.inference.export.formats import EXPORTERS, exporter_of, format_table
from deim.inference.export.options import INTERFACES, OPSETS, ExportOptions
from deim.inference.export.servers import SERVERS, export_for_server
from deim.layers.ops import EXPORT_FORMS


class _PrintFormats(argparse.Action):
    """Prints the formats and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        print(tabulate(format_table(), headers="keys"))
        parser.exit()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    suffixes = ", ".join(exporter.suffix for exporter in EXPORTERS)
    parser.add_argument("--output", required=True, help=f"file to write: {suffixes}; with --for, a folder")
    parser.add_argument(
        "--for",
        dest="server",
        choices=tuple(SERVERS),
        help="write a folder with an .onnx file and the configuration of this inference server",
    )
    parser.add_argument("--formats", action=_PrintFormats, nargs=0, help="list the formats and what they support")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="image size; default: that of the recipe"
    )
    parser.add_argument("--batch", type=int, help="fixed batch size; default: dynamic, or 1 if the format has none")
    parser.add_argument(
        "--dynamic-size", action="store_true", help="accept any height and width that are multiples of 32"
    )
    _add_precision(parser)
    _add_interface(parser)
    parser.add_argument(
        "--attention",
        choices=tuple(EXPORT_FORMS),
        help="form of deformable attention; default: the best for the format; plugin: TensorRT only",
    )
    parser.add_argument("--opset", type=int, default=OPSETS.start, help=f"ONNX opset; default: {OPSETS.start}")
    parser.add_argument(
        "--images", help="directory of images for verification (default: generated images) and int8 calibration"
    )


def _add_precision(parser: argparse.ArgumentParser) -> None:
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


def _add_interface(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--interface",
        choices=INTERFACES,
        help="inputs and outputs: deim (uint8 images; the default), official (those of the official exporters of DEIM, "
        "D-FINE and RT-DETR), raw (pred_logits and pred_boxes of all queries), deepstream (those of DeepStream-Yolo; the "
        "default of --for deepstream)",
    )
    parser.add_argument(
        "--include-normalization",
        action="store_true",
        help="interfaces official and raw: the file normalizes with mean and standard deviation, the caller does not",
    )
    parser.add_argument(
        "--raw", action="store_true", help="interface deim: output logits and boxes of all queries, not postprocessed"
    )


def run(args: argparse.Namespace) -> None:
    options = _options(args)
    if args.server is None:
        export(args.model, args.weights, args.output, options, args.images, print)
    else:
        export_for_server(args.server, args.model, args.weights, args.output, options, args.images, print)


def _options(args: argparse.Namespace) -> ExportOptions:
    interfaces = INTERFACES if args.server is None else SERVERS[args.server].interfaces
    exporter = exporter_of(args.output if args.server is None else SERVERS[args.server].onnx_file)
    return ExportOptions(
        size=None if args.size is None else tuple(args.size),
        dynamic_batch=args.batch is None and exporter.support.dynamic_batch,
        dynamic_size=args.dynamic_size,
        postprocess=not args.raw,
        attention=args.attention,
        opset=args.opset,
        batch=1 if args.batch is None else args.batch,
        precision=args.precision,
        interface=args.interface or interfaces[0],
        include_normalization=args.include_normalization,
    )
