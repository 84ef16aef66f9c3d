"""detectron2's Swin Transformer in its published sizes."""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial

import torch
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import SwinTransformer
from torch import nn

from deim.checkpoint.backbone import load_backbone_weights
from deim.checkpoint.pretrained import (
    IMAGENET,
    BackboneDescription,
    PretrainedBackbone,
    backbone_weights_path,
    describe_backbone,
)
from deim.modeling.backbone.yacs import yacs_keys

# Width, and blocks and heads of each stage (Swin, arXiv 2103.14030, section 3.3).
SIZES = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}


_PUBLISHED = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_{}_patch4_window7_224{}.pth"
PRETRAINED = tuple(
    PretrainedBackbone(size, data, _PUBLISHED.format(size, suffix), IMAGENET)
    for size, data, suffix in (
        ("tiny", "imagenet", ""),
        ("small", "imagenet", ""),
        ("base", "imagenet", ""),
        ("base", "imagenet22k", "_22k"),
        ("large", "imagenet22k", "_22k"),
    )
)


def _variants(names: Collection[str]) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    for size in reversed(SIZES):
        for window in (7, 12):
            config = f'build_swin(size="{size}", window_size={window})'
            yield config, partial(_build_on_cpu, size, window)


def _build_on_cpu(size: str, window_size: int) -> SwinTransformer:
    # detectron2's Swin Transformer reads tensor values during construction, which fails on the meta device.
    with torch.device("cpu"):
        return build_swin(size, window_size=window_size)


@BACKBONE_REGISTRY.register()
@describe_backbone(BackboneDescription("size", PRETRAINED, _variants, allowed_missing=("norm",)))
@yacs_keys("SWIN", size="tiny")
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
        ValueError: if ``size`` or ``out_indices`` is invalid.
        CheckpointError: if ``weights`` does not fit.
    """
    if size not in SIZES:
        raise ValueError(f"unknown Swin size {size!r}; choose one of {', '.join(SIZES)}")
    embed_dim, depths, num_heads = SIZES[size]
    if not out_indices or not set(out_indices) <= set(range(len(depths))):
        raise ValueError(f"out_indices must be stages from 0 to {len(depths) - 1}, got {list(out_indices)}")
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
