"""Calls that detectron2 and detrex accept and the bundled subset rejects. The subset must not ignore an argument."""

# The expressions in CALLS use the imports.
# ruff: noqa: F401

from typing import Any

import numpy as np
import torch
from detectron2.engine import SimpleTrainer
from detectron2.structures import BoxMode
from torch import nn

from tests.ecosystem.calls.config import merge_file
from tests.ecosystem.calls.data import (
    Stream,
    build_detection_test_loader,
    coco_content,
    image_file,
    read_image,
    records,
)
from tests.ecosystem.calls.detrex import wandb_calls
from tests.ecosystem.calls.engine import load_checkpoint
from tests.ecosystem.calls.modeling import resnet, swin


def trainer(**options: Any) -> SimpleTrainer:
    model = nn.Linear(1, 1)
    return SimpleTrainer(model, [], torch.optim.SGD(model.parameters(), 0.1), **options)


WEIGHTS = {"weight": np.ones((1, 2), np.float32)}

CALLS = [
    "BoxMode.convert([1.0, 2, 3, 4, 5], BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS)",
    "BoxMode.convert(np.ones((1, 4)), BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS)",
    "coco_content(records([0], bbox=[1.0, 2, 3, 4, 5], bbox_mode=BoxMode.XYWHA_ABS))",
    "list(build_detection_test_loader(Stream(), mapper=str))",
    "read_image(image_file('RGB'), 'YUV-BT.601')",
    "merge_file('VERSION: 1')",
    "trainer(async_write_metrics=True)",
    "load_checkpoint(WEIGHTS, 'x.pkl')",
    "load_checkpoint({'model': WEIGHTS, '__author__': 'x', 'matching_heuristics': True}, 'x.pkl')",
    "load_checkpoint({'model': {'weight': torch.ones(1, 2)}, 'matching_heuristics': True})",
    "load_checkpoint({'model_state': {'weight': torch.ones(1, 2)}}, 'x.pyth')",
    "load_checkpoint({'model': {'weight': torch.ones(1, 2)}}, query='?matching_heuristics=True')",
    "resnet(num_classes=3)",
    "swin(patch_size=2)",
    "swin(frozen_stages=1)",
    "wandb_calls(more=1)",
]
