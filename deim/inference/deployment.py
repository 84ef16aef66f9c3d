"""Conversion of a trained model to its fastest form for inference."""

import copy

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

from deim.checkpoint.loading import convert_to_deployment_form
from deim.errors import ConfigError
from deim.inference.cuda_graphs import CudaGraphs
from deim.layers.attention import SelfAttention
from deim.layers.conv import ConvBNAct, fuse_conv_norm
from deim.layers.ops import selected_backend
from deim.layers.rotary_attention import QueryKeyValue
from deim.modeling.backbone.vit import ViTBlock
from deim.modeling.detector import DEIMDetector, DetectionBatch


def to_deployment(
    model: nn.Module,
    *,
    memory_format: torch.memory_format = torch.channels_last,
    compile: bool = False,
    half: bool = False,
    cuda_graph: bool = False,
) -> nn.Module:
    """Return a copy of a model for inference: in eval mode, with training-only parts removed.

    Normalization, affine layers and parallel branches are folded into convolutions, layer scales into linear layers.
    Detections are the same up to rounding. The copy cannot be trained or saved as a checkpoint: keep the original.

    Args:
        memory_format: memory format of convolutions. Channels-last is the fastest (``docs/benchmarks.md``);
            ``torch.contiguous_format`` is torch's default.
        compile: use ``torch.compile``. It compiles once per image size, which takes a while, and requires a C++
            compiler on the CPU.
        half: store weights in float16 for mixed precision: call the copy under
            ``torch.autocast(device, torch.float16)``.
        cuda_graph: capture and replay a CUDA graph for every shape of unpadded batches, on a GPU
            (:class:`deim.inference.cuda_graphs.CudaGraphs`).

    Raises:
        ConfigError: if ``compile`` is set and the model is not a :class:`DEIMDetector`, or ``cuda_graph`` is set and
            the model is not a :class:`DEIMDetector` on a GPU.
    """
    if compile and not isinstance(model, DEIMDetector):
        raise ConfigError(f"compile requires a DEIMDetector, got a {type(model).__name__}")
    deployed = deployment_form(model).requires_grad_(False)
    fold_norms(deployed)
    deployed = deployed.to(memory_format=memory_format)  # type: ignore[call-overload]
    if half:
        halve_weights(deployed)
    if compile:
        # The compiler cannot trace the selection of the deformable-attention backend, so select the backend now.
        selected_backend(next(deployed.parameters()).device.type)
        for part in ("backbone", "encoder", "decoder"):
            deployed.get_submodule(part).compile(dynamic=False)
    if cuda_graph:
        capture_detection(deployed)
    return deployed


def deployment_form(model: nn.Module) -> nn.Module:
    """Return a copy in eval mode without training-only parts and with re-parameterized convolutions.

    The official code deploys models in the same form. The weights of the copy can be saved, converted and loaded for
    inference.
    """
    result = copy.deepcopy(model).eval()
    convert_to_deployment_form(result)
    return result


def fold_norms(model: nn.Module) -> None:
    """Fold batch normalization and layer scales into the preceding convolutions and linear layers, in place.

    Modules do so in their method ``fold``. Convolutions with an attribute ``norm``, as in detectron2's backbones, are
    supported as well.
    """
    for module in list(model.modules()):
        if isinstance(module, ConvBNAct | ViTBlock | QueryKeyValue):
            module.fold()
        norm = getattr(module, "norm", None)
        if isinstance(module, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
            fused = fuse_conv_norm(module, norm)
            module.weight, module.bias = fused.weight, fused.bias
            module.register_module("norm", None)


def halve_weights(model: nn.Module) -> None:
    """Convert the weights of convolutions and matrix products to float16, in place.

    Autocast would otherwise convert them at each call.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | SelfAttention):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.half()


def capture_detection(model: nn.Module) -> None:
    """Replace ``model.detect``, in place, by a function that uses CUDA graphs for batches without padding.

    Raises:
        ConfigError: if the model is not a :class:`DEIMDetector` on a GPU.
    """
    if not isinstance(model, DEIMDetector) or model.device.type != "cuda":
        device = next(model.parameters()).device
        raise ConfigError(f"CUDA graphs require a DEIMDetector on a GPU, got a {type(model).__name__} on {device}")
    eager = model.detect
    fields = ("scores", "classes", "boxes", *model.predicted_fields)
    graphs = CudaGraphs(lambda images: tuple(output for output in eager(images) if output is not None))

    def detect(images: Tensor, padding: Tensor | None = None) -> DetectionBatch:
        if padding is not None:
            return eager(images, padding)
        return DetectionBatch(**dict(zip(fields, graphs(images), strict=True)))

    model.detect = detect  # type: ignore[method-assign]
