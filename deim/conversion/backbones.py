"""Identification of the backbone architecture that weights belong to."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from deim.checkpoint.backbone import COMPUTED_BUFFERS, backbone_weights
from deim.checkpoint.formats import recognize
from deim.checkpoint.reading import StoredWeights
from deim.modeling.backbone import (
    HGNetV2,
    PResNet,
    build_resnet,
    build_swin,
    build_vit,
    hgnetv2,
    presnet,
    resnet,
    swin,
    vit,
)


@dataclass
class IdentifiedBackbone:
    """A file with the weights of a backbone only.

    Attributes:
        config: call that builds it in a recipe, such as ``build_resnet(depth=50)``.
        weights: weights under native names.
        unused: names of tensors that the backbone lacks, such as a classifier's.
    """

    config: str
    weights: dict[str, Tensor]
    unused: list[str]


def identify_backbone(stored: StoredWeights) -> IdentifiedBackbone | None:
    """Identify the backbone in a file; return None if the file contains a detector or an unknown backbone.

    Raises:
        CheckpointError: if it is a Caffe2 ResNet, which is not supported.
    """
    if recognize(stored.weights) is not None or any(name.startswith("backbone.") for name in stored.weights):
        return None
    weights = backbone_weights(stored.weights, stored.path)
    for config, build in _backbones(weights):
        # detectron2's Swin Transformer reads tensor values during construction, which fails on the meta device.
        with torch.device("cpu" if config.startswith("build_swin") else "meta"):
            state = build().state_dict()
        needed = {name for name in state if not name.endswith(COMPUTED_BUFFERS)}
        needed -= {name for name in needed if config.startswith("build_swin") and name.startswith("norm")}
        if all(name in weights and weights[name].shape == state[name].shape for name in needed):
            backbone_weights_only = {name: value for name, value in weights.items() if name in state}
            return IdentifiedBackbone(config, backbone_weights_only, [name for name in weights if name not in state])
    return None


def _backbones(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """Yield all backbones, largest first, because a larger one may contain a smaller one."""
    affine = any(".affine." in name for name in weights)
    for name in reversed(hgnetv2.ARCHITECTURES):
        # The reduced sizes have three stages.
        last = f"stage{len(hgnetv2.ARCHITECTURES[name][1])}"
        config = f'HGNetV2(name="{name}", learnable_affine={affine}'
        config += f', out_features=["{last}"])' if name in hgnetv2.REDUCED else ")"
        yield config, partial(HGNetV2, name, learnable_affine=affine, out_features=[last])
    for depth in sorted(presnet.DEPTHS, reverse=True):
        yield f"PResNet(depth={depth})", partial(PResNet, depth)
    for depth in sorted(resnet.DEPTHS, reverse=True):
        yield f"build_resnet(depth={depth})", partial(build_resnet, depth)
    last_block = vit.DEPTH - 1
    for size in reversed(vit.SIZES):
        yield f'build_vit(size="{size}", out_blocks=[{last_block}])', partial(build_vit, size, [last_block])
    for size in reversed(swin.SIZES):
        for window in (7, 12):
            config = f'build_swin(size="{size}", window_size={window})'
            yield config, partial(build_swin, size, window_size=window)
