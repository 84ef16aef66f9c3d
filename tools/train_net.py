#!/usr/bin/env python
"""Train or evaluate a recipe; the command line is detectron2's.

python tools/train_net.py --config-file projects/deim_dfine/configs/deim_dfine_s_coco.py --num-gpus 8
python tools/train_net.py --config-file deim_dfine/deim_dfine_s_coco --data path/to/your/data
python tools/train_net.py --config-file ... --eval-only train.init_checkpoint=model_final.pth
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import deim  # noqa: F401 - first: it supplies detectron2 and detrex where they are missing

from detectron2.engine import default_argument_parser

from deim.command_line import run_tool
from deim.engine.launch import launch
from deim.engine.run import main

if __name__ == "__main__":
    parser = default_argument_parser(epilog=__doc__)
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="train on these: a data.yaml (YOLO), or a folder in COCO's or Pascal VOC's format",
    )
    arguments = parser.parse_args()
    sys.exit(run_tool(lambda: launch(main, arguments)))
