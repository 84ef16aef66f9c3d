"""Building the model of a run: device, memory format, compilation."""

import logging
from typing import Any

import torch
from detectron2.utils import comm
from torch import nn

from deim.config import build
from deim.cores import limit_threads_to_free_cores
from deim.engine.performance.activation_checkpointing import checkpoint_activations
from deim.engine.performance.cuda_graphs import capture_training_graphs

logger = logging.getLogger("detectron2.deim")

MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
# Parts with static shapes for a given image size; decoders see a varying number of queries and targets.
COMPILED_PARTS = ("backbone", "encoder")
# Number of training image sizes times two modes (training and evaluation), with a margin.
_COMPILED_GRAPH_LIMIT = 64


def build_model(cfg: Any, pretrained_backbone: bool = False) -> nn.Module:
    """Build the model on its device and in ``train.memory_format``.

    Args:
        pretrained_backbone: whether to load the weights given by ``model.backbone``.
    """
    model = (
        build(cfg, "model", pretrained_backbone)
        .to(cfg.train.device)
        .to(memory_format=MEMORY_FORMATS[cfg.train.memory_format])
    )
    if torch.device(cfg.train.device).type == "cpu":
        limit_threads_to_free_cores(model)
    count = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    logger.info(f"Model {type(model).__name__}: {count:,} parameters, {trainable:,} trainable")
    return model


def prepare_for_training(cfg: Any, model: nn.Module) -> nn.Module:
    """Apply ``train.sync_bn`` (if possible), ``train.activation_checkpointing``, ``train.compile`` and
    ``train.cuda_graphs`` to a model, and return it.

    Raises:
        ConfigError: if activation checkpointing or CUDA graphs do not support the model.
    """
    if cfg.train.sync_bn and comm.get_world_size() > 1 and torch.cuda.is_available():
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    # missing from config.yaml of earlier versions
    checkpoint_activations(model, cfg.train.get("activation_checkpointing", []))
    if cfg.train.compile:
        limits = torch._dynamo.config
        limits.cache_size_limit = max(limits.cache_size_limit, _COMPILED_GRAPH_LIMIT)
        for name in COMPILED_PARTS:
            part = getattr(model, name, None)
            if part is not None:
                part.compile(dynamic=False)
                logger.info(f"model.{name} will be compiled on the first batch of each image size")
    if cfg.train.get("cuda_graphs", False):
        capture_training_graphs(model)
    return model
