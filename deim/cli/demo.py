"""Try a model in the browser.

    deim demo output/deim_dfine_s_coco/model_best.pth

Drop an image on the page and adjust the score threshold. By default only this machine can open the page; see --host.
Requires pip install 'deim[demo]'.
"""

import argparse

from deim.cli.arguments import add_device, add_model
from deim.errors import DeimError
from deim.inference.demo import MIN_THRESHOLD, build_demo
from deim.inference.predictor import Predictor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, exported=True)
    add_device(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 allows other machines; default: %(default)s"
    )
    parser.add_argument("--port", type=int, default=7860, help="port to listen on; default: 7860")


def run(args: argparse.Namespace) -> None:
    predictor = Predictor(args.model, args.weights, device=args.device, threshold=MIN_THRESHOLD)
    demo = build_demo(predictor)
    try:
        demo.launch(server_name=args.host, server_port=args.port, share=False)
    except OSError as error:
        raise DeimError(f"cannot listen on {args.host}, port {args.port}: {error}; choose another --port") from error
