#!/usr/bin/env python
"""Draw loss, learning rate and AP of a run, and print the last AP.

python tools/plot_metrics.py output/run/metrics.json curves.png
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deim.command_line import run_tool
from deim.visualization import draw_metrics, last_scores

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metrics", help="metrics.json of the run")
    parser.add_argument("output", help="the PNG to write")
    args = parser.parse_args()
    status = run_tool(lambda: draw_metrics(args.metrics, args.output))
    if status == 0:
        print("  ".join(f"{name} {value:.1f}" for name, value in last_scores(args.metrics).items()))
        print(f"wrote {args.output}")
    sys.exit(status)
