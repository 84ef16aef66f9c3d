"""Swin Transformer (arXiv 2103.14030) with the checkpoint layout of detectron2 and of the original code."""

import itertools

import torch
from torch import nn
from torch.nn import functional as F

from .backbone import Backbone

__all__ = ["SwinTransformer"]


class _DropPath(nn.Module):
    """Stochastic depth: drops the residual branch of random images (arXiv 1603.09382)."""

    def __init__(self, prob):
        super().__init__()
        self.prob = prob

    def forward(self, x):
        if not self.training or self.prob == 0:
            return x
        keep = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device, dtype=x.dtype) >= self.prob
        return x * keep / (1 - self.prob)


class _Mlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


def _relative_positions(size):
    """Return the indices (size^2, size^2) into the table of position biases, for each pair of tokens of a window."""
    steps = torch.arange(size)
    rows, columns = (axis.flatten() for axis in torch.meshgrid(steps, steps, indexing="ij"))
    down = rows[:, None] - rows[None, :] + size - 1
    right = columns[:, None] - columns[None, :] + size - 1
    return down * (2 * size - 1) + right


class _WindowAttention(nn.Module):
    """Self-attention within windows, with a learned bias for each relative position."""

    def __init__(self, dim, window_size, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, num_heads))
        self.register_buffer("relative_position_index", _relative_positions(window_size))
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, windows, allowed=None):
        """Apply attention to the tokens of windows (B, W, N, C). ``allowed`` (W, N, N), bool, is True for allowed pairs."""
        batch, count, _, dim = windows.shape
        query, key, value = self.qkv(windows).unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if allowed is not None:
            bias = torch.where(allowed[:, None], bias, bias.new_tensor(-100.0))
        mask = bias.to(query.dtype).expand(count, -1, -1, -1)
        flat = (x.flatten(0, 1) for x in (query, key, value))
        mask = mask.repeat(batch, 1, 1, 1)
        attended = F.scaled_dot_product_attention(*flat, attn_mask=mask)
        return self.proj(attended.transpose(1, 2).reshape(batch, count, -1, dim))


class SwinTransformerBlock(nn.Module):
    """Transformer block: window attention, with windows shifted by half their size in every other block, and an MLP."""

    def __init__(self, dim, num_heads, window_size, shift, drop_path):
        super().__init__()
        self.window_size, self.shift = window_size, shift
        # Optimizer states are stored by position, so the order of the parameters is part of the checkpoint layout.
        self.norm1 = nn.LayerNorm(dim)
        self.attn = _WindowAttention(dim, window_size, num_heads)
        self.drop_path = _DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _Mlp(dim, 4 * dim)

    def forward(self, x):
        """Map tokens (B, h, w, C) to (B, h, w, C)."""
        x = x + self.drop_path(self._attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x):
        height, width = x.shape[1:3]
        size, shift = self.window_size, self.shift
        x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
        allowed = None
        if shift:
            x = x.roll((-shift, -shift), dims=(1, 2))
            allowed = _attention_mask(x.shape[1:3], size, shift, x.device)
        windows = self.attn(_to_windows(x, size), allowed)
        x = _from_windows(windows, x.shape[1:3], size)
        if shift:
            x = x.roll((shift, shift), dims=(1, 2))
        return x[:, :height, :width]


def _to_windows(x, size):
    """Partition (B, H, W, C) into windows (B, windows, size^2, C)."""
    return x.unflatten(2, (-1, size)).unflatten(1, (-1, size)).transpose(2, 3).flatten(1, 2).flatten(2, 3)


def _from_windows(windows, shape, size):
    """Merge windows (B, windows, size^2, C) into (B, H, W, C)."""
    grid = (shape[0] // size, shape[1] // size)
    return windows.unflatten(2, (size, size)).unflatten(1, grid).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _attention_mask(shape, size, shift, device):
    """Return a bool mask (windows, size^2, size^2) of the pairs of tokens that may attend to each other.

    The cyclic shift brings tokens from opposite borders into one window. Pairs of such tokens are False.
    """

    def regions(length):
        steps = torch.arange(length, device=device)
        return (steps >= length - size).int() + (steps >= length - shift).int()

    label = regions(shape[0])[:, None] * 3 + regions(shape[1])[None, :]
    windows = _to_windows(label[None, ..., None], size)[0, ..., 0]
    return windows[:, :, None] == windows[:, None, :]


class _PatchMerging(nn.Module):
    """Patch merging: 2 x 2 tokens become one token with twice the channels."""

    def __init__(self, dim):
        super().__init__()
        self.reduction, self.norm = nn.Linear(4 * dim, 2 * dim, bias=False), nn.LayerNorm(4 * dim)

    def forward(self, x):
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        quarters = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(quarters, dim=-1)))


class _Stage(nn.Module):
    def __init__(self, dim, num_heads, window_size, drop_paths, downsample):
        super().__init__()
        shifts = (0, window_size // 2)
        self.blocks = nn.ModuleList(
            SwinTransformerBlock(dim, num_heads, window_size, shifts[index % 2], rate)
            for index, rate in enumerate(drop_paths)
        )
        self.downsample = _PatchMerging(dim) if downsample else None


class _PatchEmbed(nn.Module):
    """Patch embedding: squares of pixels become tokens."""

    def __init__(self, patch_size, embed_dim):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(3, embed_dim, patch_size, patch_size)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, x):
        """Map images (B, 3, H, W) to tokens (B, h, w, C)."""
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.patch_size, 0, -height % self.patch_size))
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class SwinTransformer(Backbone):
    """Swin Transformer with patches of 4 x 4 pixels. The features "p0" .. "p3" have strides 4, 8, 16 and 32."""

    def __init__(
        self,
        *,
        embed_dim=96,
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        window_size=7,
        drop_path_rate=0.2,
        out_indices=(0, 1, 2, 3),
    ):
        """Create the network. The other arguments of detectron2's SwinTransformer are not supported.

        Args:
            embed_dim: number of channels of the first stage.
            depths: number of blocks of each stage.
            num_heads: number of attention heads of each stage.
            window_size: side of the windows in tokens.
            drop_path_rate: probability of dropping the last block in training; it rises linearly over the blocks.
            out_indices: indices of the stages whose features are returned.
        """
        super().__init__()
        self.out_indices = tuple(out_indices)
        self.patch_embed = _PatchEmbed(4, embed_dim)
        self.num_features = [embed_dim * 2**index for index in range(len(depths))]
        # drop probabilities, rising linearly over the blocks
        steps = max(sum(depths) - 1, 1)
        rates = iter([drop_path_rate * block / steps for block in range(sum(depths))])
        self.layers = nn.ModuleList(
            _Stage(width, heads, window_size, list(itertools.islice(rates, depth)), index < len(depths) - 1)
            for index, (width, heads, depth) in enumerate(zip(self.num_features, num_heads, depths, strict=True))
        )
        for index in self.out_indices:
            self.add_module(f"norm{index}", nn.LayerNorm(self.num_features[index]))
        self._out_features = [f"p{index}" for index in self.out_indices]
        self._out_feature_channels = {f"p{index}": self.num_features[index] for index in self.out_indices}
        self._out_feature_strides = {f"p{index}": 4 * 2**index for index in self.out_indices}
        self.apply(self._init_weights)

    @staticmethod
    def _init_weights(module):
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x):
        x = self.patch_embed(x)
        features = {}
        for index, stage in enumerate(self.layers):
            for block in stage.blocks:
                x = block(x)
            if index in self.out_indices:
                features[f"p{index}"] = getattr(self, f"norm{index}")(x).permute(0, 3, 1, 2).contiguous()
            x = x if stage.downsample is None else stage.downsample(x)
        return features
