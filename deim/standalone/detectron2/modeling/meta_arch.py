"""Registry of models, for yacs configs."""

import torch
from detectron2.utils.registry import Registry
from torch import nn

META_ARCH_REGISTRY = Registry("META_ARCH")


def build_model(cfg) -> nn.Module:
    """Build the model named by ``cfg.MODEL.META_ARCHITECTURE`` on ``cfg.MODEL.DEVICE``, without loading weights.

    Raises:
        KeyError: if the name is not registered.
    """
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    return model.to(torch.device(cfg.MODEL.DEVICE))
