"""Published backbone weights for the start of training, and the image normalization that they expect.

Each backbone states its weights with :func:`describe_backbone`, in its own module.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from deim.checkpoint.download import cache_folder, fetch, local_path, to_web_url
from deim.errors import CheckpointError

Builder = TypeVar("Builder", bound=Callable)


@dataclass(frozen=True)
class PixelStatistics:
    """Mean and standard deviation of pixels in [0, 255], per channel in RGB order."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = PixelStatistics((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
# Published detectors on PP-HGNetV2 and PResNet only scale pixels to [0, 1].
UNIT = PixelStatistics((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))


@dataclass(frozen=True)
class PretrainedBackbone:
    """A file of published backbone weights.

    Attributes:
        size: value of the backbone's argument that selects the size.
        data: pretraining dataset, "imagenet" or "imagenet22k", or the model that the weights are those of or distilled
            from, "dinov3". The backbone's ``weights`` argument accepts this name.
        url: URL of the file; with ``license``, that of the page on which to request it.
        pixels: normalization that published detectors use with it.
        file_name: name of the downloaded file; "" for the last component of the URL.
        license: license of a file that its publisher sends only after a request, so that it cannot be downloaded here;
            "" for other files.
    """

    size: str | int
    data: str
    url: str
    pixels: PixelStatistics
    file_name: str = ""
    license: str = ""

    @property
    def path(self) -> Path:
        """Path of the downloaded file."""
        return cache_folder() / (self.file_name or self.url.rpartition("/")[2])


@dataclass(frozen=True)
class BackboneDescription:
    """What a backbone states about its weights.

    Attributes:
        size_argument: name of the argument that selects the size.
        files: published weights.
        variants: function of the names of tensors. It yields the backbones that may have these tensors as pairs: the
            call in a recipe, such as ``build_resnet(depth=50)``, and a function that builds the backbone. Larger
            backbones come first, because they may contain all tensors of a smaller one. None if ``deim convert`` cannot
            identify the backbone.
        allowed_missing: prefixes of tensors that published files lack.
    """

    size_argument: str
    files: tuple[PretrainedBackbone, ...] = ()
    variants: Callable[[Collection[str]], Iterable[tuple[str, Callable[[], nn.Module]]]] | None = None
    allowed_missing: tuple[str, ...] = ()


# Name of the class or function that builds a backbone -> its description, of all imported backbones.
_DESCRIPTIONS: dict[str, BackboneDescription] = {}


def describe_backbone(description: BackboneDescription) -> Callable[[Builder], Builder]:
    """Return a decorator for the class or function that builds a backbone, which states its published weights."""

    def decorate(builder: Builder) -> Builder:
        _DESCRIPTIONS[builder.__name__] = description
        return builder

    return decorate


def descriptions() -> dict[str, BackboneDescription]:
    """Return the descriptions of all imported backbones, by the name of the class or function that builds them."""
    return dict(_DESCRIPTIONS)


# Patterns of the file names of published weights, and of other weights that users of detectron2 and detrex start from.
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
    description = _DESCRIPTIONS.get(builder)
    candidates = [file for file in description.files if file.size == size] if description is not None else []
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
    if not weights or Path(weights).suffix or "/" in weights:
        return False
    # A folder that happens to have the name, such as that of a dataset, has no weights.
    return not (Path(weights).is_file() or any(Path(weights).glob("*.safetensors")))


def backbone_weights_path(weights: str, builder: str, size: Any) -> str:
    """Return the path of a backbone's weights; download them first if needed.

    Args:
        weights: a path, a URL, or a name such as "imagenet" for the published weights of this backbone.
        builder: name of the class or function that builds the backbone.
        size: size of the backbone.

    Raises:
        CheckpointError: if no weights with that name are known, they cannot be downloaded, or their publisher requires a
            request and the file is not in the cache.
    """
    try:
        if not is_name(weights):
            return local_path(weights)
        published = find(builder, size, weights)
        if published.license:
            return str(_requested_file(published))
        return str(fetch(to_web_url(published.url), published.path))
    except CheckpointError as error:
        if "cannot be downloaded" not in str(error):
            raise
        raise CheckpointError(f"{error}, or train from random weights: model.backbone.weights=''") from error


def _requested_file(published: PretrainedBackbone) -> Path:
    """Return the path of weights that the user has to request, in the cache."""
    if not published.path.is_file():
        raise CheckpointError(
            f"the backbone weights {published.data!r} of {published.size} are not downloaded automatically: the "
            f"{published.license} applies, and they have to be requested. Request them at {published.url} and download "
            f"{published.path.name}. Save the file as {published.path}, or set model.backbone.weights=PATH. Training can "
            "also start from a published detector (train.init_checkpoint=coco) or from random weights "
            "(model.backbone.weights='')"
        )
    return published.path


def pixel_statistics_for(weights: str, backbone: Mapping[str, Any]) -> PixelStatistics | None:
    """Return the normalization that weights expect; None if unknown.

    Args:
        weights: a path, a URL or a name, as in a config.
        backbone: ``builder`` and ``size``, used for names.
    """
    if is_name(weights):
        return find(backbone["builder"], backbone["size"], weights).pixels
    file_name = weights.partition("?")[0].replace("\\", "/").rpartition("/")[2]
    for description in _DESCRIPTIONS.values():
        for file in description.files:
            if file.path.name == file_name:
                return file.pixels
    return next((pixels for pattern, pixels in _PIXEL_STATISTICS_BY_FILE.items() if fnmatch(file_name, pattern)), None)
