"""Layouts of backbone weights as published by the authors of classification models."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deim.checkpoint.formats.dfine import HGNETV2
from deim.checkpoint.formats.resnet import torchvision_resnet, transformers_resnet
from deim.checkpoint.formats.rtdetrv2 import PRESNET
from deim.checkpoint.renaming import Rule, matches_signature, rename


@dataclass(frozen=True)
class BackboneFormat:
    """A layout of backbone weights.

    Args:
        title: name in messages.
        signature: templates; a file of this layout has a matching name for each of them.
        rules: mapping between the names in the file and native.
    """

    title: str
    signature: tuple[str, ...]
    rules: Sequence[Rule]

    def recognizes(self, names: Iterable[str]) -> bool:
        """Return True if a file with these tensor names has this format."""
        return matches_signature(self.signature, names)


# timm stores a downsampling in the stage after it, Swin's authors in the stage before it.
_TIMM_SWIN = (
    *(rename(f"layers.{i + 1}.downsample.*", f"layers.{i}.downsample.*") for i in range(3)),
    rename("layers.#.blocks.*", "layers.#.blocks.*"),
    rename("patch_embed.*", "patch_embed.*"),
)

BACKBONE_FORMATS: tuple[BackboneFormat, ...] = (
    BackboneFormat("PP-HGNetV2 of D-FINE's authors", ("stem.stem1.bn.*", "stages.#.*"), HGNETV2),
    BackboneFormat("PResNet of RT-DETR's authors", ("conv1.conv1_1.norm.*", "res_layers.0.*"), PRESNET),
    BackboneFormat("a ResNet of torchvision or timm", ("bn1.*", "layer#.*"), torchvision_resnet("", "")),
    BackboneFormat("a ResNet of transformers", ("resnet.embedder.embedder.*",), transformers_resnet("resnet.", "")),
    BackboneFormat("a Swin Transformer of timm", ("layers.3.downsample.*", "patch_embed.*"), _TIMM_SWIN),
)
