#!/usr/bin/env python
"""Draw how D-FINE's decoder refines the edges of its best detections, layer by layer.

python tools/draw_distributions.py output/deim_dfine_s_coco/model_best.pth street.jpg --output distributions.png
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import deim  # noqa: F401 - first: it supplies detectron2 and detrex where they are missing
from deim.command_line import run_tool
from deim.inference.distributions import draw_edges
from deim.inference.source import load_trained

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint, or a recipe with --weights")
    parser.add_argument("picture")
    parser.add_argument("--output", required=True, help="the PNG to write")
    parser.add_argument("--weights", help="of a recipe: a checkpoint, or coco for published ones")
    parser.add_argument("--objects", type=int, default=3, help="how many detections to draw")
    args = parser.parse_args()
    status = run_tool(
        lambda: draw_edges(load_trained(args.model, args.weights), args.picture, args.output, args.objects)
    )
    if status == 0:
        print(f"wrote {args.output}")
    sys.exit(status)
