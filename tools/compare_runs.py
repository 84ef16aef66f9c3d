#!/usr/bin/env python
"""Put runs side by side: a table of their scores, and a picture of their AP over the iterations.

python tools/compare_runs.py output/first output/second --output runs.png
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deim.command_line import run_tool
from deim.visualization.comparison import compare_runs

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", help="train.output_dir of each run")
    parser.add_argument("--output", required=True, help="the PNG to write")
    args = parser.parse_args()
    sys.exit(run_tool(lambda: print(compare_runs(args.folders, args.output))))
