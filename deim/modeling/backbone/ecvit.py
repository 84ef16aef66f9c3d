"""Backbone of EdgeCrafter (arXiv 2603.18739): feature maps at strides 8, 16 and 32 from a vision transformer."""

from collections.abc import Sequence

from detectron2.config import configurable
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torch.nn import functional as F

from deim.checkpoint.backbone import load_backbone_weights
from deim.checkpoint.pretrained import BackboneDescription, backbone_weights_path, describe_backbone
from deim.layers.conv import RepConvBNAct
from deim.modeling.backbone.vit import ECVIT_PRETRAINED, build_vit
from deim.modeling.backbone.yacs import yacs_keys

# Names of the features, and their resolution relative to the map of the transformer.
SCALES = {"p3": 2.0, "p4": 1.0, "p5": 0.5}


class PyramidProjection(RepConvBNAct):
    """Pointwise convolution of a map, resized bilinearly.

    Args:
        in_channels, out_channels: input and output width.
        scale: resolution of the output relative to the input.
    """

    def __init__(self, in_channels: int, out_channels: int, scale: float):
        super().__init__(in_channels, out_channels)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to (B, out_channels, scale h, scale w).

        A pointwise convolution and interpolation commute, so the smaller of the two sizes is convolved.
        """
        if self.scale > 1:
            return self.normalize_and_activate(_resized(self.convolution(x), self.scale))
        return super().forward(_resized(x, self.scale))


def _resized(x: Tensor, scale: float) -> Tensor:
    return x if scale == 1 else F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


@BACKBONE_REGISTRY.register()
@describe_backbone(BackboneDescription("size", ECVIT_PRETRAINED))
@yacs_keys("ECVIT", size="ecvitt", out_blocks=(10, 11))
class ECViT(Backbone):
    """Vision transformer with features "p3", "p4" and "p5" at strides 8, 16 and 32.

    All features are resized forms of one map: the mean of the tokens after several blocks of the transformer.

    Args:
        size: size of the transformer, such as "ecvitt"; see :func:`~deim.modeling.backbone.build_vit`.
        out_blocks: indices of the blocks whose tokens are averaged.
        out_channels: width of the features, each of which has a projection. None for the width of the transformer: then
            only the coarsest feature has a projection, as in the official code.
        weights: weights of the transformer: "ecdet", "ecseg" or "ecpose" for those that the authors distilled for
            detection, instance segmentation or poses, or the path or URL of a file; "" for random weights.

    Raises:
        ValueError: if ``size`` or ``out_blocks`` is invalid.
        CheckpointError: if ``weights`` does not fit.
    """

    @configurable
    def __init__(self, size: str, out_blocks: Sequence[int], *, out_channels: int | None = None, weights: str = ""):
        super().__init__()
        self.vit = build_vit(size, out_blocks)
        width = self.vit.dim if out_channels is None else out_channels
        projected = list(SCALES.values())[-1:] if out_channels is None else SCALES.values()
        self.projections = nn.ModuleList(PyramidProjection(self.vit.dim, width, scale) for scale in projected)
        self._out_features = list(SCALES)
        self._out_feature_channels = dict.fromkeys(SCALES, width)
        self._out_feature_strides = {name: round(self.vit.patch_size / scale) for name, scale in SCALES.items()}
        if weights:
            path = backbone_weights_path(weights, "ECViT", size)
            load_backbone_weights(self, path, allowed_missing=("projections.",))

    @property
    def size_divisibility(self) -> int:
        return 32

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map (B, 3, H, W) images to {feature name: (B, out_channels, H / stride, W / stride)}."""
        blocks = list(self.vit(images).values())
        mean = sum(blocks[1:], blocks[0]) / len(blocks)
        unprojected = len(SCALES) - len(self.projections)
        features = [_resized(mean, scale) for scale in list(SCALES.values())[:unprojected]]
        features += [projection(mean) for projection in self.projections]
        return dict(zip(SCALES, features, strict=True))
