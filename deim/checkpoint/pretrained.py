"""Published backbone weights for the start of training, and the image normalization that they expect."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from deim.checkpoint.download import cache_folder, fetch, local_path, to_web_url
from deim.errors import CheckpointError

_HGNETV2 = "https://github.com/Peterande/storage/releases/download/dfinev1.0/"
_RESNET_D = "https://github.com/lyuwenyu/storage/releases/download/v0.1/"
_TORCHVISION = "https://download.pytorch.org/models/"
_SWIN = "https://github.com/SwinTransformer/storage/releases/download/"
_DRIVE = "https://drive.google.com/file/d/"


@dataclass(frozen=True)
class PixelStatistics:
    """Mean and standard deviation of pixels in [0, 255], per channel in RGB order."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = PixelStatistics((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
# The published detectors on these backbones only scale pixels to [0, 1].
UNIT = PixelStatistics((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))


@dataclass(frozen=True)
class PretrainedBackbone:
    """A file of published backbone weights.

    Attributes:
        builder: name of the class or function that builds the backbone.
        size: value of the builder's argument that selects the size.
        data: pretraining dataset, "imagenet" or "imagenet22k", or the model that the weights are distilled from,
            "dinov3". The backbone's ``weights`` argument accepts this name.
        url: URL of the file.
        pixels: normalization that published detectors use with it.
        file_name: name of the downloaded file; "" for the last component of the URL.
    """

    builder: str
    size: str | int
    data: str
    url: str
    pixels: PixelStatistics
    file_name: str = ""

    @property
    def path(self) -> Path:
        """Path of the downloaded file."""
        return cache_folder() / (self.file_name or self.url.rpartition("/")[2])


# Builder -> the argument that selects the size.
SIZE_ARGUMENTS = {
    "HGNetV2": "name",
    "PResNet": "depth",
    "build_resnet": "depth",
    "build_swin": "size",
    "build_vit": "size",
    "SpatialTuningAdapter": "size",
}

PRETRAINED: tuple[PretrainedBackbone, ...] = (
    *(
        PretrainedBackbone("HGNetV2", f"B{i}", "imagenet", f"{_HGNETV2}PPHGNetV2_B{i}_stage1.pth", UNIT)
        for i in range(7)
    ),
    *(
        PretrainedBackbone("HGNetV2", size, "imagenet", f"{_HGNETV2}PPHGNetV2_B0_stage1.pth", UNIT)
        for size in ("Atto", "Femto", "Pico")
    ),
    PretrainedBackbone("PResNet", 18, "imagenet", f"{_RESNET_D}ResNet18_vd_pretrained_from_paddle.pth", UNIT),
    PretrainedBackbone("PResNet", 34, "imagenet", f"{_RESNET_D}ResNet34_vd_pretrained_from_paddle.pth", UNIT),
    PretrainedBackbone("PResNet", 50, "imagenet", f"{_RESNET_D}ResNet50_vd_ssld_v2_pretrained_from_paddle.pth", UNIT),
    PretrainedBackbone("PResNet", 101, "imagenet", f"{_RESNET_D}ResNet101_vd_ssld_pretrained_from_paddle.pth", UNIT),
    PretrainedBackbone("build_resnet", 18, "imagenet", f"{_TORCHVISION}resnet18-f37072fd.pth", IMAGENET),
    PretrainedBackbone("build_resnet", 34, "imagenet", f"{_TORCHVISION}resnet34-b627a593.pth", IMAGENET),
    PretrainedBackbone(
        "build_resnet", 50, "imagenet", "detectron2://ImageNetPretrained/torchvision/R-50.pkl", IMAGENET
    ),
    PretrainedBackbone("build_resnet", 101, "imagenet", f"{_TORCHVISION}resnet101-63fe2227.pth", IMAGENET),
    PretrainedBackbone("build_resnet", 152, "imagenet", f"{_TORCHVISION}resnet152-394f9c45.pth", IMAGENET),
    PretrainedBackbone("build_swin", "tiny", "imagenet", f"{_SWIN}v1.0.0/swin_tiny_patch4_window7_224.pth", IMAGENET),
    PretrainedBackbone("build_swin", "small", "imagenet", f"{_SWIN}v1.0.0/swin_small_patch4_window7_224.pth", IMAGENET),
    PretrainedBackbone("build_swin", "base", "imagenet", f"{_SWIN}v1.0.0/swin_base_patch4_window7_224.pth", IMAGENET),
    PretrainedBackbone(
        "build_swin", "base", "imagenet22k", f"{_SWIN}v1.0.0/swin_base_patch4_window7_224_22k.pth", IMAGENET
    ),
    PretrainedBackbone(
        "build_swin", "large", "imagenet22k", f"{_SWIN}v1.0.0/swin_large_patch4_window7_224_22k.pth", IMAGENET
    ),
    *(
        PretrainedBackbone(builder, size, "dinov3", f"{_DRIVE}{identifier}/view", IMAGENET, file_name)
        for builder in ("build_vit", "SpatialTuningAdapter")
        for size, identifier, file_name in (
            ("vit_tiny", "1YMTq_woOLjAcZnHSYNTsNg7f0ahj5LPs", "vitt_distill.pt"),
            ("vit_tinyplus", "1COHfjzq5KfnEaXTluVGEOMdhpuVcG6Jt", "vittplus_distill.pt"),
        )
    ),
)

# File names from the table above and from other weights that users of detectron2 and detrex start from.
_PIXEL_STATISTICS_BY_FILE = {
    "PPHGNetV2_*": UNIT,
    "ResNet*_vd_*": UNIT,
    "R-*.pkl": IMAGENET,
    "resnet*": IMAGENET,
    "swin_*": IMAGENET,
    "dinov3_*": IMAGENET,
    "vitt*_distill*": IMAGENET,
    "convnext_*": IMAGENET,
    "focalnet_*": IMAGENET,
    "internimage_*": IMAGENET,
    "mae_pretrain_*": IMAGENET,
}


def find(builder: str, size: Any, data: str) -> PretrainedBackbone:
    """Return the published weights of a backbone.

    Raises:
        CheckpointError: if none are known. The message lists the known ones.
    """
    candidates = [candidate for candidate in PRETRAINED if (candidate.builder, candidate.size) == (builder, size)]
    for candidate in candidates:
        if candidate.data == data:
            return candidate
    names = ", ".join(candidate.data for candidate in candidates) or "none"
    raise CheckpointError(
        f"no pretrained weights {data!r} are known for {builder}({size!r}) (known: {names}), and no file has this "
        "name: set model.backbone.weights to the path or URL of a file, or to '' to train from random weights"
    )


def is_name(weights: str) -> bool:
    """Return True if ``weights`` is the name of published weights and not a path or a URL."""
    return bool(weights) and not Path(weights).suffix and "/" not in weights and not Path(weights).exists()


def backbone_weights_path(weights: str, builder: str, size: Any) -> str:
    """Return the path of a backbone's weights; download them first if needed.

    Args:
        weights: a path, a URL, or a name such as "imagenet" for the published weights of this backbone.
        builder: name of the class or function that builds the backbone.
        size: size of the backbone.

    Raises:
        CheckpointError: if no weights with that name are known, or they cannot be downloaded.
    """
    try:
        if not is_name(weights):
            return local_path(weights)
        published = find(builder, size, weights)
        return str(fetch(to_web_url(published.url), published.path))
    except CheckpointError as error:
        if "cannot be downloaded" not in str(error):
            raise
        raise CheckpointError(f"{error}, or train from random weights: model.backbone.weights=''") from error


def pixel_statistics_for(weights: str, backbone: Mapping[str, Any]) -> PixelStatistics | None:
    """Return the normalization that weights expect; None if unknown.

    Args:
        weights: a path, a URL or a name, as in a config.
        backbone: ``builder`` and ``size``, used for names.
    """
    if is_name(weights):
        return find(backbone["builder"], backbone["size"], weights).pixels
    file_name = weights.partition("?")[0].replace("\\", "/").rpartition("/")[2]
    return next((pixels for pattern, pixels in _PIXEL_STATISTICS_BY_FILE.items() if fnmatch(file_name, pattern)), None)
