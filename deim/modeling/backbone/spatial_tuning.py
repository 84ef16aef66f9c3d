"""Spatial tuning adapter of DEIMv2 (arXiv 2509.20787): feature maps at strides 8, 16 and 32 from a vision transformer."""

from collections.abc import Sequence
from itertools import pairwise

from detectron2.config import configurable
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torch.nn import functional as F

from deim.checkpoint.backbone import load_backbone_weights
from deim.checkpoint.pretrained import BackboneDescription, backbone_weights_path, describe_backbone
from deim.layers.conv import ConvBNAct, convolve_parts
from deim.modeling.backbone.vit import PRETRAINED, build_vit
from deim.modeling.backbone.yacs import yacs_keys

FEATURES = ("p3", "p4", "p5")


class SpatialPrior(nn.Module):
    """Convolutional pyramid of image details at strides 8, 16 and 32.

    Args:
        channels: width at stride 4. The maps have 2, 4 and 4 times this width.
    """

    def __init__(self, channels: int):
        super().__init__()
        widths = [channels, *self.widths(channels)]
        self.stem = ConvBNAct(3, channels, 3, 2, activation="gelu")
        self.convs = nn.ModuleList(ConvBNAct(before, after, 3, 2) for before, after in pairwise(widths))

    @staticmethod
    def widths(channels: int) -> list[int]:
        """Return the widths of the maps, finest first."""
        return [2 * channels, 4 * channels, 4 * channels]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map (B, 3, H, W) images to maps (B, C, H / stride, W / stride), finest first."""
        x = F.max_pool2d(self.stem(images), kernel_size=3, stride=2, padding=1)
        maps: list[Tensor] = []
        for conv in self.convs:
            # The activation belongs to the next convolution: the maps themselves are not activated.
            maps.append(conv(F.gelu(maps[-1]) if maps else x))
        return maps


class DetailFusion(ConvBNAct):
    """Pointwise convolution of a transformer's map, resized bilinearly, concatenated with a map of details.

    Args:
        semantic_channels, detail_channels: widths of the two maps.
        out_channels: output width.
        scale: resolution of the details relative to the transformer's map.
    """

    def __init__(self, semantic_channels: int, detail_channels: int, out_channels: int, scale: float):
        super().__init__(semantic_channels + detail_channels, out_channels)
        self.scale = scale

    def forward(self, semantic: Tensor, detail: Tensor) -> Tensor:  # type: ignore[override]
        """Fuse (B, semantic_channels, h / scale, w / scale) and (B, detail_channels, h, w) to (B, out_channels, h, w).

        A pointwise convolution and interpolation commute, so the smaller of the two sizes is convolved.
        """
        if self.scale < 1:
            semantic = _resized(semantic, detail)
        conv_semantic, conv_detail = convolve_parts(self.convolution, semantic, detail)
        if self.scale > 1:
            conv_semantic = _resized(conv_semantic, detail)
        return self.normalize_and_activate(conv_semantic + conv_detail)


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


@BACKBONE_REGISTRY.register()
@describe_backbone(BackboneDescription("size", PRETRAINED))
@yacs_keys("SPATIAL_TUNING", size="vit_tiny", out_blocks=(3, 7, 11))
class SpatialTuningAdapter(Backbone):
    """Vision transformer with features "p3", "p4" and "p5" at strides 8, 16 and 32.

    Each feature joins the tokens after one block of the transformer with a map of the :class:`SpatialPrior`.

    Args:
        size: size of the transformer; see :func:`~deim.modeling.backbone.build_vit`.
        out_blocks: three indices of blocks, for the features from the finest to the coarsest.
        prior_channels: width of the spatial prior.
        out_channels: width of the features; None for the width of the transformer.
        weights: weights of the transformer: the path or URL of a file in the layout of DINOv3, DEIMv2 or
            transformers, or a name of published weights; "" for random weights.

    Raises:
        ValueError: if ``size`` or ``out_blocks`` is invalid.
        CheckpointError: if ``weights`` does not fit.
    """

    @configurable
    def __init__(
        self,
        size: str,
        out_blocks: Sequence[int],
        *,
        prior_channels: int = 16,
        out_channels: int | None = None,
        weights: str = "",
    ):
        super().__init__()
        if len(out_blocks) != len(FEATURES) or list(out_blocks) != sorted(set(out_blocks)):
            raise ValueError(f"out_blocks must be {len(FEATURES)} indices in ascending order, got {list(out_blocks)}")
        self.vit = build_vit(size, out_blocks)
        self.prior = SpatialPrior(prior_channels)
        dim = self.vit.dim
        width = dim if out_channels is None else out_channels
        self.projections = nn.ModuleList(
            DetailFusion(dim, details, width, scale)
            for details, scale in zip(SpatialPrior.widths(prior_channels), (2.0, 1.0, 0.5), strict=True)
        )
        self._out_features = list(FEATURES)
        self._out_feature_channels = dict.fromkeys(FEATURES, width)
        self._out_feature_strides = dict(zip(FEATURES, (8, 16, 32), strict=True))
        if weights:
            path = backbone_weights_path(weights, "SpatialTuningAdapter", size)
            load_backbone_weights(self, path, allowed_missing=("prior.", "projections."))

    @property
    def size_divisibility(self) -> int:
        return 32

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map (B, 3, H, W) images to {feature name: (B, out_channels, H / stride, W / stride)}."""
        semantics, details = self.vit(images).values(), self.prior(images)
        return {
            name: projection(semantic, detail)
            for name, projection, semantic, detail in zip(FEATURES, self.projections, semantics, details, strict=True)
        }
