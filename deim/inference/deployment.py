"""A trained model in the form in which it predicts fastest."""

import copy

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

from deim.checkpoint.loading import reparameterize
from deim.errors import ConfigError
from deim.inference.cuda_graphs import CudaGraphs
from deim.layers.attention import SelfAttention
from deim.layers.conv import ConvNorm, fuse_conv_norm
from deim.layers.ops import selected_backend
from deim.modeling.detector import DEIMDetector


def to_deployment(
    model: nn.Module,
    *,
    memory_format: torch.memory_format = torch.channels_last,
    compile: bool = False,
    half: bool = False,
    cuda_graph: bool = False,
) -> nn.Module:
    """A copy in eval mode that only predicts: without what training needs, with normalization, affines and the
    branches of convolutions folded into convolutions.

    Detections stay the same up to rounding. The copy cannot be trained, and its weights have names that no checkpoint
    has: keep the model that it was made of.

    Args:
        memory_format: of convolutions. Channels-last is the faster one (``docs/benchmarks.md``);
            ``torch.contiguous_format`` for torch's default.
        compile: by ``torch.compile``, once for every size of images, which takes a while the first time. The CPU needs a
            C++ compiler for it.
        half: for float16 where torch deems it safe: call the copy under ``torch.autocast(device, torch.float16)``, which
            finds its weights in float16 already.
        cuda_graph: on a GPU, record what is done for every shape of a batch without padding when it first comes, and
            replay it from then on, which takes one launch (:class:`deim.inference.cuda_graphs.CudaGraphs`).

    Raises:
        ConfigError: ``cuda_graph`` is for a :class:`DEIMDetector` on a GPU.
    """
    deployed = reparameterized(model).requires_grad_(False)
    fold_norms(deployed)
    deployed = deployed.to(memory_format=memory_format)  # type: ignore[call-overload]
    if half:
        halve_weights(deployed)
    if compile:
        # chosen now: the compiler does not see through how it is done
        selected_backend(next(deployed.parameters()).device.type)
        for part in ("backbone", "encoder", "decoder"):
            deployed.get_submodule(part).compile(dynamic=False)
    if cuda_graph:
        record_detections(deployed)
    return deployed


def reparameterized(model: nn.Module) -> nn.Module:
    """A copy in eval mode without what inference never uses, and with its re-parameterisable convolutions in one, as the
    official codes deploy theirs: its weights can be saved, converted and loaded again for inference."""
    copied = copy.deepcopy(model).eval()
    reparameterize(copied)
    return copied


def fold_norms(model: nn.Module) -> None:
    """Fold batch normalization into the convolutions before it, in place: ours, and those of detectron2's backbones."""
    for module in list(model.modules()):
        if isinstance(module, ConvNorm):
            module.fold()
        norm = getattr(module, "norm", None)
        if isinstance(module, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
            fused = fuse_conv_norm(module, norm)
            module.weight, module.bias = fused.weight, fused.bias
            module.register_module("norm", None)


def halve_weights(model: nn.Module) -> None:
    """Keep the weights of convolutions and matrix products in float16, in place, as autocast would make them anew at each
    call; everything else stays as it is."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | SelfAttention):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.half()


def record_detections(model: nn.Module) -> None:
    """Let batches without padding be replayed, in place.

    Raises:
        ConfigError: the model is none that can be recorded.
    """
    if not isinstance(model, DEIMDetector) or model.device.type != "cuda":
        place = next(model.parameters()).device
        raise ConfigError(f"CUDA graphs are for a DEIMDetector on a GPU, not for a {type(model).__name__} on {place}")
    eager = model.detect
    graphs = CudaGraphs(eager)

    def detect(images: Tensor, padding: Tensor | None = None) -> tuple[Tensor, ...]:
        return graphs(images) if padding is None else eager(images, padding)

    model.detect = detect  # type: ignore[method-assign, assignment]
