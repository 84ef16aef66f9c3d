"""Plain vision transformer with rotary position embedding: DINOv3 (arXiv 2508.10104), the ViT-Tiny of DEIMv2, and ECViT
(EdgeCrafter, arXiv 2603.18739)."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torch.nn import functional as F

from deim.checkpoint.backbone import load_backbone_weights
from deim.checkpoint.pretrained import (
    IMAGENET,
    BackboneDescription,
    PretrainedBackbone,
    backbone_weights_path,
    describe_backbone,
)
from deim.layers.conv import RepConvBNAct
from deim.layers.linear import Linear
from deim.layers.rotary_attention import RotaryAttention, cosines_and_sines, rotary_angles, rotary_table
from deim.layers.swiglu import SwiGLU
from deim.layers.tracing import is_tracing
from deim.modeling.backbone.yacs import yacs_keys

# DINOv3's additions to a plain vision transformer.
_DINOV3: dict[str, Any] = {
    "num_registers": 4,
    "key_bias": False,
    "layer_scale": 1e-5,
    "norm_eps": 1e-5,
    "final_norm": True,
    "rope_rescale": 2.0,
}
# Arguments of VisionTransformer. The names are those of the official code of DINOv3, DEIMv2 and EdgeCrafter.
SIZES: dict[str, dict[str, Any]] = {
    "vit_tiny": {"dim": 192, "num_heads": 3, "feedforward_dim": 768},
    "vit_tinyplus": {"dim": 256, "num_heads": 4, "feedforward_dim": 1024},
    "dinov3_vits16": {"dim": 384, "num_heads": 6, "feedforward_dim": 1536, **_DINOV3},
    "dinov3_vits16plus": {"dim": 384, "num_heads": 6, "feedforward_dim": 1536, "gated": True, **_DINOV3},
    "ecvitt": {"dim": 192, "num_heads": 3, "feedforward_dim": 768, "conv_stem": True},
    "ecvittplus": {"dim": 256, "num_heads": 4, "feedforward_dim": 1024, "conv_stem": True},
    "ecvits": {"dim": 384, "num_heads": 6, "feedforward_dim": 1536, "conv_stem": True},
    "ecvitsplus": {"dim": 384, "num_heads": 6, "feedforward_dim": 2304, "conv_stem": True},
}
DEPTH = 12
# ViT-Tiny and ViT-Tiny+ are distilled from DINOv3 by DEIMv2's authors. Meta sends DINOv3's own weights after a request.
_DRIVE = "https://drive.google.com/file/d/{}/view"
_META = "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/"
PRETRAINED = tuple(
    PretrainedBackbone(size, "dinov3", url, IMAGENET, file_name, license)
    for size, url, file_name, license in (
        ("vit_tiny", _DRIVE.format("1YMTq_woOLjAcZnHSYNTsNg7f0ahj5LPs"), "vitt_distill.pt", ""),
        ("vit_tinyplus", _DRIVE.format("1COHfjzq5KfnEaXTluVGEOMdhpuVcG6Jt"), "vittplus_distill.pt", ""),
        ("dinov3_vits16", _META, "dinov3_vits16_pretrain_lvd1689m-08c60483.pth", "DINOv3 license of Meta"),
        ("dinov3_vits16plus", _META, "dinov3_vits16plus_pretrain_lvd1689m-4057cbaa.pth", "DINOv3 license of Meta"),
    )
)
# ECViT is distilled for a task by the authors of EdgeCrafter: "ecdet" stands for detection, "ecseg" for instance segmentation,
# "ecpose" for poses.
_EDGECRAFTER = "https://github.com/capsule2077/edgecrafter/releases/download/edgecrafterv1/"
ECVIT_PRETRAINED = tuple(
    PretrainedBackbone(f"ecvit{size}", data, f"{_EDGECRAFTER}{name}{size}.pth", IMAGENET)
    for data, name in (("ecdet", "ecvit"), ("ecseg", "ecseg_vit"), ("ecpose", "ecpose_vit"))
    for size in ("t", "tplus", "s", "splus")
)


class PatchEmbedding(nn.Module):
    """Linear projection of the pixels of each patch: (B, 3, H, W) -> (B, dim, H / patch_size, W / patch_size)."""

    def __init__(self, dim: int, patch_size: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images)


class ConvPatchEmbedding(nn.Module):
    """Pyramid of 3x3 convolutions with stride 2: (B, 3, H, W) -> (B, dim, H / patch_size, W / patch_size).

    The width doubles from one convolution to the next. All convolutions but the last are normalized and activated.

    Raises:
        ValueError: if ``patch_size`` is not a power of 2, or ``dim`` is not a multiple of half the patch size.
    """

    def __init__(self, dim: int, patch_size: int):
        super().__init__()
        if patch_size < 2 or patch_size & (patch_size - 1) or dim % (patch_size // 2):
            raise ValueError(
                "conv_stem requires a patch_size that is a power of 2 and a dim that is a multiple of half of it, got "
                f"{patch_size} and {dim}"
            )
        count = patch_size.bit_length() - 2
        widths = [3, *(dim >> reduction for reduction in range(count, 0, -1))]
        self.convs = nn.ModuleList(
            RepConvBNAct(before, after, 3, 2, activation="relu") for before, after in pairwise(widths)
        )
        self.proj = nn.Conv2d(widths[-1], dim, 3, 2, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        for conv in self.convs:
            images = conv(images)
        return self.proj(images)


class FeedForward(nn.Module):
    """Two linear layers with GELU in between."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.fc1, self.fc2 = Linear(dim, hidden_dim), Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """Product with one learnable factor for each channel (arXiv 2103.17239, section 2)."""

    def __init__(self, dim: int, initial: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class ViTBlock(nn.Module):
    """Pre-norm transformer block.

    Args:
        dim: width of the tokens.
        num_heads: number of attention heads.
        feedforward_dim: hidden width of the feed-forward layer.
        gated: use a SwiGLU feed-forward layer instead of an MLP with GELU.
        key_bias: use a bias in the projection of keys.
        layer_scale: initial factors of LayerScale; None for no LayerScale.
        norm_eps: epsilon of the layer norms.
    """

    supports_activation_checkpointing = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        gated: bool = False,
        key_bias: bool = True,
        layer_scale: float | None = None,
        norm_eps: float = 1e-6,
    ):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=norm_eps), nn.LayerNorm(dim, eps=norm_eps)
        self.attn = RotaryAttention(dim, num_heads, key_bias)
        self.mlp = SwiGLU(dim, feedforward_dim) if gated else FeedForward(dim, feedforward_dim)
        self.ls1, self.ls2 = (nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale) for _ in range(2))

    def forward(self, tokens: Tensor, rotary: Tensor) -> Tensor:
        """Apply the block to tokens (B, N, dim); for ``rotary`` see :class:`RotaryAttention`."""
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens), rotary))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))

    def fold(self) -> None:
        """Fold the layer scales into the preceding linear layers, in place."""
        last = self.mlp.w3 if isinstance(self.mlp, SwiGLU) else self.mlp.fc2
        for name, linear in (("ls1", self.attn.proj), ("ls2", last)):
            scale = getattr(self, name)
            if isinstance(scale, LayerScale):
                gamma = scale.gamma.detach()
                linear.weight = nn.Parameter(linear.weight.detach() * gamma[:, None])
                linear.bias = nn.Parameter(linear.bias.detach() * gamma)
                setattr(self, name, nn.Identity())


class VisionTransformer(Backbone):
    """Vision transformer with feature "block<i>" after block i, counted from 0, at the stride of the patches.

    A class token and register tokens precede the patch tokens. These special tokens have no position embedding. The code
    of ECViT calls the class token a register token.

    Args:
        dim, num_heads, feedforward_dim, gated, key_bias, layer_scale, norm_eps: see :class:`ViTBlock`.
        out_blocks: indices of the blocks whose tokens are returned. Later blocks are not built.
        patch_size: side of a patch in pixels.
        conv_stem: embed patches by a pyramid of convolutions (:class:`ConvPatchEmbedding`) instead of one linear
            projection.
        num_registers: number of register tokens (arXiv 2309.16588; "storage tokens" in DINOv3's code).
        final_norm: apply a layer norm, shared by all features, to the tokens of each feature.
        rope_base: base of the rotary periods.
        rope_rescale: in training, each block multiplies the coordinates by a random factor in
            [1 / rope_rescale, rope_rescale], log-uniform; None to leave the coordinates unchanged.

    Raises:
        ValueError: if ``out_blocks`` is empty or has a negative index, or the width of a head is not a multiple of 4.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        out_blocks: Sequence[int],
        *,
        patch_size: int = 16,
        conv_stem: bool = False,
        gated: bool = False,
        num_registers: int = 0,
        key_bias: bool = True,
        layer_scale: float | None = None,
        norm_eps: float = 1e-6,
        final_norm: bool = False,
        rope_base: float = 100.0,
        rope_rescale: float | None = None,
    ):
        super().__init__()
        if not out_blocks or min(out_blocks) < 0:
            raise ValueError(f"out_blocks must be indices of blocks, counted from 0, got {list(out_blocks)}")
        if dim % (4 * num_heads):
            raise ValueError(f"dim {dim} is not divisible by 4 x num_heads ({num_heads}), as rotary embeddings require")
        self.dim, self.patch_size, self.head_dim = dim, patch_size, dim // num_heads
        self.rope_base, self.rope_rescale = rope_base, rope_rescale
        self.patch_embed = (ConvPatchEmbedding if conv_stem else PatchEmbedding)(dim, patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.storage_tokens = nn.Parameter(torch.empty(1, num_registers, dim)) if num_registers else None
        self.blocks = nn.ModuleList(
            ViTBlock(dim, num_heads, feedforward_dim, gated, key_bias, layer_scale, norm_eps)
            for _ in range(max(out_blocks) + 1)
        )
        self.norm = nn.LayerNorm(dim, eps=norm_eps) if final_norm else nn.Identity()
        self._out_features = [f"block{index}" for index in sorted(out_blocks)]
        self._out_feature_channels = dict.fromkeys(self._out_features, dim)
        self._out_feature_strides = dict.fromkeys(self._out_features, patch_size)
        self.apply(_initialize)
        for token in (self.cls_token, self.storage_tokens):
            if token is not None:
                nn.init.normal_(token, std=0.02)

    @property
    def size_divisibility(self) -> int:
        return self.patch_size

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map (B, 3, H, W) images to {"block<i>": (B, dim, H / patch_size, W / patch_size)}.

        Raises:
            ValueError: if H or W is not a multiple of the patch size.
        """
        if not is_tracing() and any(side % self.patch_size for side in images.shape[-2:]):
            raise ValueError(
                f"image sides {tuple(images.shape[-2:])} must be multiples of the patch size {self.patch_size}"
            )
        patches = self.patch_embed(images)
        height, width = patches.shape[-2:]
        special: Tensor = self.cls_token
        if self.storage_tokens is not None:
            special = torch.cat([special, self.storage_tokens], dim=1)
        prefix = special.shape[1]
        tokens = torch.cat([special.expand(images.shape[0], -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        dtype = torch.promote_types(self.cls_token.dtype, torch.float32)
        positions = (height, width, self.head_dim, prefix, self.rope_base, images.device, dtype)
        rotary = rotary_table(*positions)
        features = {}
        for index, block in enumerate(self.blocks):
            if self.training and self.rope_rescale is not None:
                angles = rotary_angles(*positions)
                rotary = cosines_and_sines(angles * _random_factor(self.rope_rescale, angles))
            tokens = block(tokens, rotary)
            if f"block{index}" in self._out_features:
                patch_tokens = self.norm(tokens[:, prefix:])
                features[f"block{index}"] = patch_tokens.transpose(1, 2).unflatten(-1, (height, width))
        return features


def _random_factor(limit: float, like: Tensor) -> Tensor:
    """Return a log-uniform factor in [1 / limit, limit], () on the device of ``like``."""
    bound = math.log(limit)
    return torch.empty((), device=like.device, dtype=like.dtype).uniform_(-bound, bound).exp()


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def _variants(names: Collection[str]) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    for size in reversed(SIZES):
        yield f'build_vit(size="{size}", out_blocks=[{DEPTH - 1}])', partial(build_vit, size, [DEPTH - 1])


@BACKBONE_REGISTRY.register()
@describe_backbone(BackboneDescription("size", (*PRETRAINED, *ECVIT_PRETRAINED), _variants))
@yacs_keys("VIT", size="dinov3_vits16")
def build_vit(size: str, out_blocks: Sequence[int] = (DEPTH - 1,), weights: str = "") -> VisionTransformer:
    """Build a vision transformer of a published size.

    Args:
        size: "vit_tiny" or "vit_tinyplus" (DEIMv2's, distilled from DINOv3), "dinov3_vits16", "dinov3_vits16plus", or
            "ecvitt", "ecvittplus", "ecvits", "ecvitsplus" (EdgeCrafter).
        out_blocks: subset of 0 .. 11, for features "block0" .. "block11" at stride 16.
        weights: "dinov3" for the published weights ("ecdet", "ecseg" or "ecpose" for those of ECViT), or the path or URL
            of a file in the layout of DINOv3, DEIMv2, EdgeCrafter or transformers; "" for random weights. DINOv3's own
            weights have to be requested from Meta.

    Raises:
        ValueError: if ``size`` or ``out_blocks`` is invalid.
        CheckpointError: if ``weights`` does not fit.
    """
    if size not in SIZES:
        raise ValueError(f"unknown ViT size {size!r}; choose one of {', '.join(SIZES)}")
    if any(index >= DEPTH for index in out_blocks):
        raise ValueError(f"{size} has blocks 0 to {DEPTH - 1}, but out_blocks is {list(out_blocks)}")
    vit = VisionTransformer(out_blocks=out_blocks, **SIZES[size])
    if weights:
        load_backbone_weights(vit, backbone_weights_path(weights, "build_vit", size))
    return vit
