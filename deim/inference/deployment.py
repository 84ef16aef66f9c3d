"""A trained model in the form in which it predicts fastest."""

import copy

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from deim.checkpoint.loading import reparameterize
from deim.layers.conv import ConvNorm, fuse_conv_norm
from deim.layers.ops import selected_backend


def to_deployment(
    model: nn.Module, *, memory_format: torch.memory_format = torch.channels_last, compile: bool = False
) -> nn.Module:
    """A copy in eval mode that only predicts: without what training needs, with normalisation, affines and the
    branches of convolutions folded into convolutions.

    Detections stay the same up to rounding. The copy cannot be trained, and its weights have names that no checkpoint
    has: keep the model that it was made of.

    Args:
        memory_format: of convolutions. Channels-last is the faster one (``docs/benchmarks.md``);
            ``torch.contiguous_format`` for torch's default.
        compile: by ``torch.compile``, once for every size of images, which takes a while the first time. The CPU needs a
            C++ compiler for it.
    """
    deployed = reparameterized(model).requires_grad_(False)
    fold_norms(deployed)
    deployed = deployed.to(memory_format=memory_format)  # type: ignore[call-overload]
    if compile:
        # chosen now: the compiler does not see through how it is done
        selected_backend(next(deployed.parameters()).device.type)
        for part in ("backbone", "encoder", "decoder"):
            deployed.get_submodule(part).compile(dynamic=False)
    return deployed


def reparameterized(model: nn.Module) -> nn.Module:
    """A copy in eval mode without what inference never uses, and with its re-parameterisable convolutions in one, as the
    official codes deploy theirs: its weights can be saved, converted and loaded again for inference."""
    copied = copy.deepcopy(model).eval()
    reparameterize(copied)
    return copied


def fold_norms(model: nn.Module) -> None:
    """Fold batch normalisation into the convolutions before it, in place: ours, and those of detectron2's backbones."""
    for module in list(model.modules()):
        if isinstance(module, ConvNorm):
            module.fold()
        norm = getattr(module, "norm", None)
        if isinstance(module, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
            fused = fuse_conv_norm(module, norm)
            module.weight, module.bias = fused.weight, fused.bias
            module.register_module("norm", None)
