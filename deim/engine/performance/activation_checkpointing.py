"""Activation checkpointing: recompute activations in the backward pass to save memory."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from detectron2.modeling.backbone.swin import SwinTransformerBlock
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from deim.errors import ConfigError

logger = logging.getLogger("detectron2.deim")

# Blocks of this package have the attribute ``supports_activation_checkpointing``, which detectron2's blocks lack.
DETECTRON2_BLOCKS: tuple[type[nn.Module], ...] = (BasicBlock, BottleneckBlock, SwinTransformerBlock)


def checkpoint_activations(model: nn.Module, parts: Sequence[str]) -> None:
    """Checkpoint the activations of every block of these modules, in place (arXiv 1604.06174, section 4).

    Losses, gradients and normalization statistics do not change: the recomputation uses the same random numbers and
    does not update the statistics a second time.

    A block is a module whose class has the attribute ``supports_activation_checkpointing = True``, or a block of one of
    detectron2's backbones.

    Args:
        parts: module names, such as "backbone", "encoder" and "decoder".

    Raises:
        ConfigError: if a module does not exist or contains no blocks.
    """
    for name in parts:
        part = dict(model.named_modules()).get(name)
        blocks = [] if part is None else [module for module in part.modules() if is_block(module)]
        if not blocks:
            raise ConfigError(
                f"train.activation_checkpointing: the model has no module {name}"
                if part is None
                else f"train.activation_checkpointing: {name} ({type(part).__name__}) has no supported blocks. Its own "
                "configuration may have a switch such as use_checkpoint"
            )
        for block in blocks:
            contexts = partial(_contexts, block)
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=contexts)
        logger.info(f"Checkpointing activations of {len(blocks)} blocks of model.{name}")


def is_block(module: nn.Module) -> bool:
    """Return True if a module is a block whose activations can be recomputed."""
    is_declared = getattr(type(module), "supports_activation_checkpointing", False)
    return bool(is_declared) or isinstance(module, DETECTRON2_BLOCKS)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Return the contexts for the forward pass of a block and for its recomputation."""
    return nullcontext(), _temporary_statistics(block)


@contextmanager
def _temporary_statistics(block: nn.Module) -> Iterator[None]:
    """Let normalization layers update temporary copies of their statistics, so each batch counts only once."""
    statistics = [
        (norm, name, statistic)
        for norm in block.modules()
        if isinstance(norm, _BatchNorm) and norm.training
        for name, statistic in norm.named_buffers(recurse=False)
    ]
    try:
        for norm, name, statistic in statistics:
            setattr(norm, name, statistic.clone())
        yield
    finally:
        for norm, name, statistic in statistics:
            setattr(norm, name, statistic)
