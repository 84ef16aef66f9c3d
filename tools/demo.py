#!/usr/bin/env python
"""Try a model in the browser: drop a picture, move the threshold. Needs pip install '.[demo]'.

python tools/demo.py output/deim_dfine_s_coco/model_best.pth

Only this machine can open the page, unless --host says otherwise.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import deim  # noqa: F401 - first: it supplies detectron2 and detrex where they are missing
from deim.command_line import run_tool
from deim.inference.demo import LOWEST, build_demo
from deim.inference.predictor import Predictor


def serve(args: argparse.Namespace) -> None:
    predictor = Predictor(args.model, args.weights, device=args.device, threshold=LOWEST)
    build_demo(predictor).launch(server_name=args.host, server_port=args.port, share=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint, an exported file (.onnx, .xml), or a recipe with --weights")
    parser.add_argument("--weights", help="of a recipe: a checkpoint, or coco for published ones")
    parser.add_argument("--device", default="auto", help="such as cpu or cuda:1")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, default=7860)
    args = parser.parse_args()
    sys.exit(run_tool(lambda: serve(args)))
