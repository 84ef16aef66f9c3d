"""Backbones alone, as those who trained them to classify publish them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deim.checkpoint.formats.dfine import HGNETV2
from deim.checkpoint.formats.resnet import torchvision_resnet, transformers_resnet
from deim.checkpoint.formats.rtdetrv2 import PRESNET
from deim.checkpoint.renaming import Rule, has_names, rename


@dataclass(frozen=True)
class BackboneFormat:
    """A layout of a backbone's weights.

    Args:
        title: for people.
        signature: templates; such a file has names like each of them.
        rules: names there and here.
    """

    title: str
    signature: tuple[str, ...]
    rules: Sequence[Rule]

    def recognizes(self, names: Iterable[str]) -> bool:
        """Whether a file with tensors of these names is of this format."""
        return has_names(self.signature, names)


# timm puts a downsampling before the layers that it leads to, Swin's authors after those that it comes from.
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
