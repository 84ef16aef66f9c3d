"""Identification of the backbone architecture that weights belong to."""

from dataclasses import dataclass

import torch
from torch import Tensor

import deim.modeling.backbone  # noqa: F401 - defines the backbones that descriptions() returns
from deim.checkpoint.backbone import COMPUTED_BUFFERS, backbone_weights, native_backbone_weights
from deim.checkpoint.formats import recognize
from deim.checkpoint.pretrained import descriptions
from deim.checkpoint.reading import StoredWeights


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
        CheckpointError: if the backbone is a Caffe2 ResNet, which is not supported.
    """
    if recognize(stored.weights) is not None or any(name.startswith("backbone.") for name in stored.weights):
        return None
    weights = backbone_weights(stored.weights, stored.path)
    for description in descriptions().values():
        for config, build in description.variants(weights) if description.variants is not None else ():
            with torch.device("meta"):
                backbone = build()
            native = native_backbone_weights(backbone, stored.weights, weights)
            state = backbone.state_dict()
            needed = {
                n for n in state if not n.endswith(COMPUTED_BUFFERS) and not n.startswith(description.allowed_missing)
            }
            if all(name in native and native[name].shape == state[name].shape for name in needed):
                own_weights = {name: value for name, value in native.items() if name in state}
                return IdentifiedBackbone(config, own_weights, [name for name in native if name not in state])
    return None
