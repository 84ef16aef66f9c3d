"""Evaluate weights on the test images of a recipe or on your own dataset.

    deim eval --config-file deim_dfine/deim_dfine_s_coco train.init_checkpoint=coco
    deim eval --config-file deim_dfine/deim_dfine_s_coco --data path/to/your/data train.init_checkpoint=model_best.pth
    deim eval --config-file deim_dfine/deim_dfine_s_coco train.init_checkpoint=coco --tta --tta-scales 0.8,1,1.2

train.init_checkpoint=coco selects the published weights of the recipe. Equivalent to deim train --eval-only.
"""

import argparse

from deim.cli import train
from deim.cli.arguments import add_config, add_fusion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_fusion(parser)
    train.add_processes(parser)
    parser.set_defaults(eval_only=True, resume=False, overwrite=False)


def run(args: argparse.Namespace) -> None:
    train.run(args)
