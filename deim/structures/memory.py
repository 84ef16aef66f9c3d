"""Encoder output that the decoder attends to."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass
class Memory:
    """Tokens of all feature maps, concatenated level by level, each map in row-major order.

    Attributes:
        tokens: (B, S, C).
        spatial_shapes: (h, w) of each feature map, finest first.
        padding: (B, S) bool, True for padding, which attention must ignore; None without padding. Boxes are relative
            to the image without its padding.
        position: (B, S, C) or (1, S, C) position embedding of the tokens, for attention that compares positions; None
            if the encoder does not provide one.
    """

    tokens: Tensor
    spatial_shapes: list[tuple[int, int]]
    padding: Tensor | None = None
    position: Tensor | None = None

    @staticmethod
    def from_maps(maps: Sequence[Tensor], padding: Tensor | None = None) -> "Memory":
        """Create the memory from feature maps.

        Args:
            maps: feature maps (B, C, h, w).
            padding: (B, H, W) bool at any resolution, True for padded pixels.
        """
        shapes = [(x.shape[-2], x.shape[-1]) for x in maps]
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
        return Memory(tokens, shapes, None if padding is None else flatten_padding(padding, shapes))

    @property
    def level_sizes(self) -> list[int]:
        """Number of tokens of each feature map."""
        return [height * width for height, width in self.spatial_shapes]

    @property
    def finest_map(self) -> Tensor:
        """(B, C, h, w) tokens of the first feature map."""
        return self.tokens[:, : self.level_sizes[0]].transpose(1, 2).unflatten(2, self.spatial_shapes[0])

    @property
    def valid_ratios(self) -> Tensor | None:
        """(B, L, 2) fractions of each map's width and height that are not padding; None without padding."""
        # Checked before accessing the cached property, whose lock causes a graph break in torch.compile.
        return None if self.padding is None else self._valid_ratios

    @cached_property
    def _valid_ratios(self) -> Tensor:
        assert self.padding is not None
        maps = zip(self.padding.split(self.level_sizes, dim=1), self.spatial_shapes, strict=True)
        return torch.stack([_valid_ratio(~flat.unflatten(1, shape)) for flat, shape in maps], dim=1)


def _valid_ratio(valid: Tensor) -> Tensor:
    """Return the fractions (B, 2) of width and height inside the image, given a (B, h, w) bool mask."""
    height, width = valid.shape[1:]
    # At least one token, even for a tiny image in a large batch, because references are divided by the ratio.
    columns, rows = valid[:, 0].sum(1).clamp(min=1), valid[:, :, 0].sum(1).clamp(min=1)
    return torch.stack([columns / width, rows / height], dim=-1)


def resize_padding(padding: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a (B, H, W) bool mask to (B, h, w) by nearest neighbor."""
    return F.interpolate(padding[:, None].float(), size=size, mode="nearest")[:, 0].bool()


def flatten_padding(padding: Tensor, spatial_shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Convert a (B, H, W) bool mask to a token mask (B, S) for feature maps of the given shapes."""
    return torch.cat([resize_padding(padding, shape).flatten(1) for shape in spatial_shapes], dim=1)
