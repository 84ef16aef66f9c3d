"""What an encoder hands to a decoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass
class Memory:
    """Tokens of all feature maps, one map after the other, each row by row.

    Attributes:
        tokens: (B, S, C).
        spatial_shapes: (h, w) of each map, finest first.
        padding: (B, S) bool, True on padding, which attention is not to see; None if there is none. Boxes
            are relative to each image without its padding.
        position: (B, S, C) or (1, S, C) position embedding of the tokens, for attention that compares
            positions; None if the encoder gives none.
    """

    tokens: Tensor
    spatial_shapes: list[tuple[int, int]]
    padding: Tensor | None = None
    position: Tensor | None = None

    @staticmethod
    def from_maps(maps: Sequence[Tensor], padding: Tensor | None = None) -> "Memory":
        """Tokens of maps (B, C, h, w).

        Args:
            padding: (B, H, W) bool at any resolution, True on padded pixels.
        """
        shapes = [(x.shape[-2], x.shape[-1]) for x in maps]
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
        return Memory(tokens, shapes, None if padding is None else flat_padding(padding, shapes))

    @property
    def level_sizes(self) -> list[int]:
        """The number of tokens of each map."""
        return [height * width for height, width in self.spatial_shapes]

    @property
    def valid_ratios(self) -> Tensor | None:
        """(B, L, 2) which part of each map's width and height belongs to the image; None without padding."""
        # asked first: the lock of a cached property is where torch.compile ends a graph
        return None if self.padding is None else self._valid_ratios

    @cached_property
    def _valid_ratios(self) -> Tensor:
        assert self.padding is not None
        maps = zip(self.padding.split(self.level_sizes, dim=1), self.spatial_shapes, strict=True)
        return torch.stack([_valid_ratio(~flat.unflatten(1, shape)) for flat, shape in maps], dim=1)


def _valid_ratio(inside: Tensor) -> Tensor:
    """(B, h, w) bool -> (B, 2) shares of the width and of the height."""
    height, width = inside.shape[1:]
    # At least one token, however small the image is in its batch: references are divided by this.
    columns, rows = inside[:, 0].sum(1).clamp(min=1), inside[:, :, 0].sum(1).clamp(min=1)
    return torch.stack([columns / width, rows / height], dim=-1)


def resize_padding(padding: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H, W) bool mask at another resolution (B, h, w), by the nearest pixel."""
    return F.interpolate(padding[:, None].float(), size=size, mode="nearest")[:, 0].bool()


def flat_padding(padding: Tensor, spatial_shapes: Sequence[tuple[int, int]]) -> Tensor:
    """(B, H, W) bool mask -> (B, S) for the tokens of maps of these shapes."""
    return torch.cat([resize_padding(padding, shape).flatten(1) for shape in spatial_shapes], dim=1)
