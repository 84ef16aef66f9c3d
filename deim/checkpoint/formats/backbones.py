"""Layouts of backbone weights as published by the authors of classification models."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deim.checkpoint.formats.dfine import HGNETV2
from deim.checkpoint.formats.dinov3 import KEY_BIASES, transformers_dinov3
from deim.checkpoint.formats.edgecrafter import ECVIT
from deim.checkpoint.formats.resnet import torchvision_resnet, transformers_resnet
from deim.checkpoint.formats.rtdetrv2 import PRESNET
from deim.checkpoint.renaming import (
    Rule,
    fill_template,
    from_native,
    match_template,
    matches_signature,
    rename,
    to_native,
)


@dataclass(frozen=True)
class BackboneFormat:
    """A layout of backbone weights.

    Args:
        title: name in messages.
        signature: templates; a file of this layout has a matching name for each of them.
        rules: mapping between the names in the file and native.
        zeros: pairs of templates (missing tensor, reference). Files lack the first tensor. Reading adds it with zeros,
            in the shape of the reference, which files contain.
    """

    title: str
    signature: tuple[str, ...]
    rules: Sequence[Rule]
    zeros: tuple[tuple[str, str], ...] = ()

    def recognizes(self, names: Iterable[str]) -> bool:
        """Return True if a file with these tensor names has this format."""
        return matches_signature(self.signature, names)

    def to_native(self, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return weights under native names, and the names of unused tensors."""
        complete = dict(weights)
        for zero, like in self.zeros:
            for name, value in weights.items():
                captured = match_template(like, name)
                if captured is not None:
                    complete.setdefault(fill_template(zero, captured), torch.zeros_like(value))
        return to_native(complete, self.rules)

    def from_native(self, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return the content of a file, and the names of native tensors that a file cannot store."""
        external, unused = from_native(weights, self.rules)
        zeros = [name for name in external if any(match_template(zero, name) is not None for zero, _ in self.zeros)]
        return {name: value for name, value in external.items() if name not in zeros}, unused


# timm stores a downsampling in the stage after it, Swin's authors in the stage before it.
_TIMM_SWIN = (
    *(rename(f"layers.{i + 1}.downsample.*", f"layers.{i}.downsample.*") for i in range(3)),
    rename("layers.#.blocks.*", "layers.#.blocks.*"),
    rename("patch_embed.*", "patch_embed.*"),
)

BACKBONE_FORMATS: tuple[BackboneFormat, ...] = (
    BackboneFormat("PP-HGNetV2 of D-FINE's authors", ("stem.stem1.bn.*", "stages.#.*"), HGNETV2),
    BackboneFormat("ECViT of EdgeCrafter's authors", ("register_token", "patch_embed.convs.#.*"), ECVIT),
    BackboneFormat("PResNet of RT-DETR's authors", ("conv1.conv1_1.norm.*", "res_layers.0.*"), PRESNET),
    BackboneFormat("a ResNet of torchvision or timm", ("bn1.*", "layer#.*"), torchvision_resnet("", "")),
    BackboneFormat("a ResNet of transformers", ("resnet.embedder.embedder.*",), transformers_resnet("resnet.", "")),
    *(
        BackboneFormat(
            "DINOv3 of transformers",
            ("embeddings.register_tokens", f"*.mlp.{part}.weight"),
            transformers_dinov3(gated),
            KEY_BIASES,
        )
        for part, gated in (("gate_proj", True), ("up_proj", False))
    ),
    BackboneFormat("a Swin Transformer of timm", ("layers.3.downsample.*", "patch_embed.*"), _TIMM_SWIN),
)
