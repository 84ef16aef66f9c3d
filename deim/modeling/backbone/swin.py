"""detectron2's Swin Transformer in its published sizes."""

from collections.abc import Sequence

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import SwinTransformer

from deim.checkpoint.backbone import load_backbone_weights
from deim.checkpoint.pretrained import backbone_weights_path

# Width, and blocks and heads of each stage (Swin, arXiv 2103.14030, section 3.3).
SIZES = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}


def _from_config(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict:
    """Return the arguments from an old-style config; see :func:`deim.config.yacs.add_deim_config`."""
    options = cfg.MODEL.SWIN
    return {
        "size": options.SIZE,
        "out_indices": options.OUT_INDICES,
        "window_size": options.WINDOW_SIZE,
        "drop_path_rate": options.DROP_PATH_RATE,
        "weights": options.WEIGHTS,
    }


@BACKBONE_REGISTRY.register()
@configurable(from_config=_from_config)
def build_swin(
    size: str,
    out_indices: Sequence[int] = (1, 2, 3),
    window_size: int = 7,
    drop_path_rate: float = 0.2,
    weights: str = "",
) -> SwinTransformer:
    """Build a Swin Transformer.

    Args:
        size: "tiny", "small", "base" or "large".
        out_indices: subset of 0 .. 3, for features "p0" .. "p3" at strides 4, 8, 16 and 32.
        window_size: window side in tokens; 12 for weights pretrained at 384 pixels.
        drop_path_rate: drop-path probability of the last block in training; it increases linearly over the blocks.
        weights: "imagenet" or "imagenet22k" for the published weights, or the path or URL of a file in the layout
            of Swin's authors or timm; "" for random weights.

    Raises:
        ValueError: if ``size`` is invalid.
        CheckpointError: if ``weights`` does not fit.
    """
    if size not in SIZES:
        raise ValueError(f"unknown Swin size {size!r}; choose one of {', '.join(SIZES)}")
    embed_dim, depths, num_heads = SIZES[size]
    backbone = SwinTransformer(
        embed_dim=embed_dim,
        depths=depths,
        num_heads=num_heads,
        window_size=window_size,
        drop_path_rate=drop_path_rate,
        out_indices=tuple(out_indices),
    )
    # detectron2 sets this attribute under a misspelled name, so its own meta-architectures do not find it.
    setattr(backbone, "_size_divisibility", 32)  # noqa: B010 - torch types attributes as modules or tensors
    if weights:
        load_backbone_weights(
            backbone,
            backbone_weights_path(weights, "build_swin", size),
            allowed_missing=tuple(f"norm{index}." for index in out_indices),
        )
    return backbone
