"""The registry of whole models."""

import torch
from detectron2.utils.registry import Registry
from torch import nn

META_ARCH_REGISTRY = Registry("META_ARCH")


def build_model(cfg) -> nn.Module:
    """The model that ``cfg.MODEL.META_ARCHITECTURE`` names, on ``cfg.MODEL.DEVICE``, without weights."""
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    return model.to(torch.device(cfg.MODEL.DEVICE))
