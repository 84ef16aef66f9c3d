"""Which backbone the weights in a file are of."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from deim.checkpoint.backbone import COMPUTED, backbone_weights
from deim.checkpoint.formats import recognize
from deim.checkpoint.reading import Stored
from deim.modeling.backbone import HGNetV2, PResNet, build_resnet, build_swin, hgnetv2, presnet, resnet, swin


@dataclass
class Backbone:
    """A file with a backbone alone.

    Attributes:
        config: how a recipe names it, such as ``build_resnet(depth=50)``.
        weights: under our names.
        left: names of what the backbone has not, such as a classifier.
    """

    config: str
    weights: dict[str, Tensor]
    left: list[str]


def identify_backbone(stored: Stored) -> Backbone | None:
    """What backbone a file holds; None if it is a detector, or none that we know.

    Raises:
        CheckpointError: it is a ResNet of Caffe2, which we have not.
    """
    if recognize(stored.weights) is not None or any(name.startswith("backbone.") for name in stored.weights):
        return None
    weights = backbone_weights(stored.weights, stored.path)
    for config, build in _backbones(weights):
        # detectron2's Swin Transformer reads values of a tensor while it is built, which those on "meta" have not.
        with torch.device("cpu" if config.startswith("build_swin") else "meta"):
            state = build().state_dict()
        needed = {name for name in state if not name.endswith(COMPUTED)}
        needed -= {name for name in needed if config.startswith("build_swin") and name.startswith("norm")}
        if all(name in weights and weights[name].shape == state[name].shape for name in needed):
            own = {name: value for name, value in weights.items() if name in state}
            return Backbone(config, own, [name for name in weights if name not in state])
    return None


def _backbones(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """All that we have, the largest first: a smaller one may be contained in a larger one."""
    affine = any(".affine." in name for name in weights)
    for name in reversed(hgnetv2.ARCHITECTURES):
        yield f'HGNetV2(name="{name}", learnable_affine={affine})', partial(HGNetV2, name, learnable_affine=affine)
    for depth in sorted(presnet.DEPTHS, reverse=True):
        yield f"PResNet(depth={depth})", partial(PResNet, depth)
    for depth in sorted(resnet.DEPTHS, reverse=True):
        yield f"build_resnet(depth={depth})", partial(build_resnet, depth)
    for size in reversed(swin.SIZES):
        for window in (7, 12):
            config = f'build_swin(size="{size}", window_size={window})'
            yield config, partial(build_swin, size, window_size=window)
