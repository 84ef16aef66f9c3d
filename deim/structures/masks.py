"""Predicted masks, stored as embeddings of queries and of pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from deim.structures.precision import in_full_precision


@dataclass
class MaskPredictions:
    """Masks of L layers: the logit of a pixel is the dot product of the embeddings of query and pixel, plus an offset.

    The logits of all queries would need L * B * Q * h * w values. Most of them are never used: a loss needs the masks of
    matched queries, and a matching cost needs a few points. Bilinear sampling commutes with the dot product, so the
    logits at these points are computed from sampled embeddings. The embeddings keep the precision of the model.

    Attributes:
        queries: (L, B, Q, C) embeddings of the queries.
        offsets: (L, B, Q) added to the logits of a query.
        pixels: for each layer, (B, C, h, w) embeddings of the pixels. The maps cover the batch including its padding.
    """

    queries: Tensor
    offsets: Tensor
    pixels: list[Tensor]

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the masks."""
        return self.pixels[0].shape[-2], self.pixels[0].shape[-1]

    @staticmethod
    def join(layers: Sequence["MaskPredictions"]) -> "MaskPredictions":
        """Stack the masks of one set of queries over layers."""
        queries, offsets = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("queries", "offsets"))
        return MaskPredictions(queries, offsets, [maps for layer in layers for maps in layer.pixels])

    def split(self, sizes: list[int]) -> list["MaskPredictions"]:
        """Split along the query dimension."""
        parts = zip(self.queries.split(sizes, dim=2), self.offsets.split(sizes, dim=2), strict=True)
        return [MaskPredictions(*part, self.pixels) for part in parts]

    def select(self, layer: int, queries: Tensor | None = None) -> Tensor:
        """Return the logits of some queries of one layer.

        Args:
            layer: index of the layer.
            queries: (B, N) int64 indices; None for all queries.

        Returns:
            (B, N, h, w) in at least float32.
        """
        pixels, embeddings, offsets = self.pixels[layer], self.queries[layer], self.offsets[layer]
        if queries is not None:
            embeddings = embeddings.gather(1, queries[..., None].expand(-1, -1, embeddings.shape[-1]))
            offsets = offsets.gather(1, queries)
        logits = in_full_precision(embeddings.to(pixels.dtype) @ pixels.flatten(2))
        logits += offsets[..., None]  # in place, because the logits need much memory
        return logits.unflatten(2, pixels.shape[-2:])

    def at_points(self, points: Tensor) -> Tensor:
        """Return the logits of all queries at points that all masks share, as :func:`sample_bilinear` of the masks would.

        Args:
            points: (P, 2) x and y in [0, 1], relative to the batch including its padding.

        Returns:
            (L, B, Q, P) in at least float32.
        """
        sampled = [sample_bilinear(in_full_precision(maps), points.expand(len(maps), -1, -1)) for maps in self.pixels]
        # Near the border, the zeros outside of the map also reduce the offset.
        weights = sample_bilinear(sampled[0].new_ones(1, 1, *self.size), points[None])[0, 0]
        offsets = in_full_precision(self.offsets)[..., None] * weights
        return in_full_precision(self.queries) @ torch.stack(sampled) + offsets


def sample_bilinear(maps: Tensor, points: Tensor) -> Tensor:
    """Sample maps at points by bilinear interpolation; outside of the map, values are 0.

    Args:
        maps: (N, C, h, w).
        points: (N, P, 2) x and y in [0, 1]; pixel (i, j) covers the area from (j / w, i / h) to ((j + 1) / w, (i + 1) / h).

    Returns:
        (N, C, P).
    """
    grid = 2 * points[:, :, None].to(maps.dtype) - 1
    return F.grid_sample(maps, grid, align_corners=False)[..., 0]


def nearest_pixels(points: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the rows and columns (...) of the pixels that contain points (..., 2), x and y in [0, 1], in a map of
    ``size`` (h, w)."""
    height, width = size
    x, y = points.unbind(-1)
    return (y * height).long().clamp(max=height - 1), (x * width).long().clamp(max=width - 1)
