"""Swin Transformer (arXiv 2103.14030) with the layout of detectron2's and the original's checkpoints."""

import torch
from torch import nn
from torch.nn import functional as F

from .backbone import Backbone

__all__ = ["SwinTransformer"]


class _DropPath(nn.Module):
    """Leaves the whole branch of some images out (arXiv 1603.09382)."""

    def __init__(self, prob):
        super().__init__()
        self.prob = prob

    def forward(self, x):
        if not self.training or self.prob == 0:
            return x
        kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device, dtype=x.dtype) >= self.prob
        return x * kept / (1 - self.prob)


class _Mlp(nn.Module):
    def __init__(self, dim, hidden, drop):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x):
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))


def _relative_positions(size):
    """(size^2, size^2) index into the table of position biases for each pair of a window's tokens."""
    steps = torch.arange(size)
    rows, columns = (axis.flatten() for axis in torch.meshgrid(steps, steps, indexing="ij"))
    down = rows[:, None] - rows[None, :] + size - 1
    right = columns[:, None] - columns[None, :] + size - 1
    return down * (2 * size - 1) + right


class _WindowAttention(nn.Module):
    """Attention among the tokens of a window, with a learned bias for each relative position."""

    def __init__(self, dim, window_size, num_heads, qkv_bias, qk_scale, attn_drop, proj_drop):
        super().__init__()
        self.num_heads, self.attn_drop = num_heads, attn_drop
        self.scale = qk_scale or (dim // num_heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, num_heads))
        self.register_buffer("relative_position_index", _relative_positions(window_size))
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj, self.proj_drop = nn.Linear(dim, dim), nn.Dropout(proj_drop)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, windows, allowed=None):
        """(B, W, N, C) tokens of windows, and (W, N, N) bool which may see which."""
        batch, count, _, dim = windows.shape
        query, key, value = self.qkv(windows).unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if allowed is not None:
            bias = torch.where(allowed[:, None], bias, bias.new_tensor(-100.0))
        drop = self.attn_drop if self.training else 0.0
        mask = bias.to(query.dtype).expand(count, -1, -1, -1)
        flat = (x.flatten(0, 1) for x in (query, key, value))
        mask = mask.repeat(batch, 1, 1, 1)
        attended = F.scaled_dot_product_attention(*flat, attn_mask=mask, dropout_p=drop, scale=self.scale)
        return self.proj_drop(self.proj(attended.transpose(1, 2).reshape(batch, count, -1, dim)))


class _Block(nn.Module):
    """Attention in windows, which every other block shifts by half their size, and a feed-forward part."""

    def __init__(self, dim, num_heads, window_size, shift, mlp_ratio, drop, drop_path, norm_layer, **attention):
        super().__init__()
        self.window_size, self.shift = window_size, shift
        self.norm1, self.norm2 = norm_layer(dim), norm_layer(dim)
        self.attn = _WindowAttention(dim, window_size, num_heads, proj_drop=drop, **attention)
        self.drop_path = _DropPath(drop_path)
        self.mlp = _Mlp(dim, int(dim * mlp_ratio), drop)

    def forward(self, x):
        """(B, h, w, C) -> (B, h, w, C)."""
        x = x + self.drop_path(self._attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x):
        height, width = x.shape[1:3]
        size, shift = self.window_size, self.shift
        x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
        allowed = None
        if shift:
            x = x.roll((-shift, -shift), dims=(1, 2))
            allowed = _same_region(x.shape[1:3], size, shift, x.device)
        windows = self.attn(_to_windows(x, size), allowed)
        x = _from_windows(windows, x.shape[1:3], size)
        if shift:
            x = x.roll((shift, shift), dims=(1, 2))
        return x[:, :height, :width]


def _to_windows(x, size):
    """(B, H, W, C) -> (B, windows, size^2, C)."""
    return x.unflatten(2, (-1, size)).unflatten(1, (-1, size)).transpose(2, 3).flatten(1, 2).flatten(2, 3)


def _from_windows(windows, shape, size):
    """(B, windows, size^2, C) -> (B, H, W, C)."""
    grid = (shape[0] // size, shape[1] // size)
    return windows.unflatten(2, (size, size)).unflatten(1, grid).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _same_region(shape, size, shift, device):
    """(windows, size^2, size^2) bool: whether two tokens were neighbours before the cyclic shift."""

    def regions(length):
        steps = torch.arange(length, device=device)
        return (steps >= length - size).int() + (steps >= length - shift).int()

    label = regions(shape[0])[:, None] * 3 + regions(shape[1])[None, :]
    windows = _to_windows(label[None, ..., None], size)[0, ..., 0]
    return windows[:, :, None] == windows[:, None, :]


class _PatchMerging(nn.Module):
    """Four neighbours become one token of twice the width."""

    def __init__(self, dim, norm_layer):
        super().__init__()
        self.reduction, self.norm = nn.Linear(4 * dim, 2 * dim, bias=False), norm_layer(4 * dim)

    def forward(self, x):
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        parts = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, dim=-1)))


class _Stage(nn.Module):
    def __init__(self, dim, depth, window_size, drop_paths, downsample, norm_layer, **options):
        super().__init__()
        self.blocks = nn.ModuleList(
            _Block(
                dim=dim,
                window_size=window_size,
                shift=window_size // 2 if index % 2 else 0,
                drop_path=drop_paths[index],
                norm_layer=norm_layer,
                **options,
            )
            for index in range(depth)
        )
        self.downsample = _PatchMerging(dim, norm_layer) if downsample else None


class _PatchEmbed(nn.Module):
    """Squares of pixels as tokens."""

    def __init__(self, patch_size, in_chans, embed_dim, norm_layer):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size)
        self.norm = norm_layer(embed_dim) if norm_layer is not None else None

    def forward(self, x):
        """(B, 3, H, W) -> (B, h, w, C)."""
        height, width = x.shape[-2:]
        x = self.proj(F.pad(x, (0, -width % self.patch_size, 0, -height % self.patch_size))).permute(0, 2, 3, 1)
        return x if self.norm is None else self.norm(x)


class SwinTransformer(Backbone):
    """Features "p0" .. "p3" at strides 4, 8, 16 and 32, those of ``out_indices``."""

    def __init__(
        self,
        pretrain_img_size=224,
        patch_size=4,
        in_chans=3,
        embed_dim=96,
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        window_size=7,
        mlp_ratio=4.0,
        qkv_bias=True,
        qk_scale=None,
        drop_rate=0.0,
        attn_drop_rate=0.0,
        drop_path_rate=0.2,
        norm_layer=nn.LayerNorm,
        ape=False,
        patch_norm=True,
        out_indices=(0, 1, 2, 3),
        frozen_stages=-1,
        use_checkpoint=False,
    ):
        super().__init__()
        if ape or use_checkpoint:
            raise NotImplementedError("ape and use_checkpoint; install detectron2 for them")
        self.out_indices, self.frozen_stages = tuple(out_indices), frozen_stages
        self.patch_embed = _PatchEmbed(patch_size, in_chans, embed_dim, norm_layer if patch_norm else None)
        self.pos_drop = nn.Dropout(drop_rate)
        rates = torch.linspace(0, drop_path_rate, sum(depths)).tolist()
        self.num_features = [embed_dim * 2**index for index in range(len(depths))]
        self.layers = nn.ModuleList(
            _Stage(
                width,
                depth,
                window_size,
                rates[sum(depths[:index]) :],
                downsample=index < len(depths) - 1,
                norm_layer=norm_layer,
                num_heads=num_heads[index],
                mlp_ratio=mlp_ratio,
                drop=drop_rate,
                qkv_bias=qkv_bias,
                qk_scale=qk_scale,
                attn_drop=attn_drop_rate,
            )
            for index, (width, depth) in enumerate(zip(self.num_features, depths, strict=True))
        )
        for index in self.out_indices:
            self.add_module(f"norm{index}", norm_layer(self.num_features[index]))
        self._out_features = [f"p{index}" for index in self.out_indices]
        self._out_feature_channels = {f"p{index}": self.num_features[index] for index in self.out_indices}
        self._out_feature_strides = {f"p{index}": patch_size * 2**index for index in self.out_indices}
        self.apply(self._init_weights)
        self._freeze_stages()

    @staticmethod
    def _init_weights(module):
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def _freeze_stages(self):
        frozen = [self.patch_embed] if self.frozen_stages >= 0 else []
        for part in [*frozen, *self.layers[: max(self.frozen_stages - 1, 0)]]:
            part.requires_grad_(False)

    @property
    def size_divisibility(self):
        return 32

    def forward(self, x):
        x = self.pos_drop(self.patch_embed(x))
        features = {}
        for index, stage in enumerate(self.layers):
            for block in stage.blocks:
                x = block(x)
            if index in self.out_indices:
                features[f"p{index}"] = getattr(self, f"norm{index}")(x).permute(0, 3, 1, 2).contiguous()
            x = x if stage.downsample is None else stage.downsample(x)
        return features
