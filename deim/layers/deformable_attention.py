"""Multi-scale deformable attention with an individual number of points per level."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deim.layers.linear import Linear
from deim.layers.ops import deform_attn, deform_attn_nearest
from deim.layers.tracing import cached_tensors, sizes_to_tensor

SAMPLINGS = {"bilinear": deform_attn, "nearest": deform_attn_nearest}


class MultiScaleDeformableAttention(nn.Module):
    """Deformable attention around points (Deformable DETR, section 4.1) or boxes (appendix A.4), as used in Deformable
    DETR, RT-DETRv2 and D-FINE.

    Args:
        embed_dim: width of queries and values.
        num_heads: number of heads; must divide ``embed_dim``.
        num_points: number of sampling points on each level, e.g. (3, 6, 3).
        offset_scale: factor of the sampling offsets around a reference box. An offset of 1 moves a point by
            ``offset_scale / n`` sides of the box, where n is the number of points on the level. Around a reference
            point, an offset of 1 moves it by one pixel of the level's feature map.
        project: whether to project the values and the output (Deformable DETR, RT-DETRv2; not D-FINE).
        sampling: "bilinear", or "nearest" (RT-DETRv2's discrete sampling, section 3.1, which needs no grid sampling in
            deployment; the sampling offsets get no gradient and are frozen).

    Raises:
        ValueError: if ``num_heads`` does not divide ``embed_dim``, or ``sampling`` is unknown.
    """

    point_scale: Tensor

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_points: Sequence[int],
        offset_scale: float = 0.5,
        project: bool = False,
        sampling: str = "bilinear",
    ):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is not divisible by num_heads {num_heads}")
        if sampling not in SAMPLINGS:
            raise ValueError(f"unknown sampling {sampling!r}; choose one of {', '.join(SAMPLINGS)}")
        self.sample = SAMPLINGS[sampling]
        self.num_heads, self.num_points, self.offset_scale = num_heads, list(num_points), offset_scale
        points = sum(num_points)
        scale = torch.cat([torch.full((n, 1), 1.0 / n) for n in num_points])
        self.register_buffer("point_scale", scale, persistent=False)
        self.sampling_offsets = Linear(embed_dim, num_heads * points * 2)
        self.attention_weights = Linear(embed_dim, num_heads * points)
        self.value_proj = Linear(embed_dim, embed_dim) if project else nn.Identity()
        self.output_proj = Linear(embed_dim, embed_dim) if project else nn.Identity()
        self._reset_parameters()
        if sampling == "nearest":
            self.sampling_offsets.requires_grad_(False)

    def _reset_parameters(self) -> None:
        """Initialize the sampling offsets: the k-th point of each level lies k steps from the reference, in one
        direction per head (Deformable DETR, appendix A.4)."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        steps = torch.cat([torch.arange(1, n + 1) for n in self.num_points])
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_((directions[:, None] * steps[:, None]).flatten())
        for projection in (self.value_proj, self.output_proj):
            if isinstance(projection, nn.Linear):
                nn.init.xavier_uniform_(projection.weight)
                nn.init.zeros_(projection.bias)

    def forward(
        self,
        queries: Tensor,
        references: Tensor,
        value: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        padding: Tensor | None = None,
        valid_ratios: Tensor | None = None,
    ) -> Tensor:
        """Compute deformable attention.

        Args:
            queries: (B, Q, embed_dim).
            references: (B, Q, 4) boxes, cxcywh, or (B, Q, 2) points, in [0, 1] relative to the image without padding.
            value: (B, S, embed_dim), concatenated over levels.
            spatial_shapes: (h, w) of each level.
            padding: (B, S) bool, True for tokens whose value is treated as zero.
            valid_ratios: (B, L, 2) fractions of each level's width and height that are not padding; None without
                padding.

        Returns:
            (B, Q, embed_dim).
        """
        batch, num_queries, _ = queries.shape
        offsets = self.sampling_offsets(queries).view(batch, num_queries, self.num_heads, -1, 2)
        weights = self.attention_weights(queries).view(batch, num_queries, self.num_heads, -1).softmax(dim=-1)
        locations = self._locations(references[:, :, None, None], offsets, spatial_shapes, valid_ratios)
        value = self.value_proj(value)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0)
        value = value.unflatten(-1, (self.num_heads, -1))
        return self.output_proj(self.sample(value, spatial_shapes, locations, weights, self.num_points))

    def _locations(
        self,
        references: Tensor,
        offsets: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        valid_ratios: Tensor | None,
    ) -> Tensor:
        """Return the sampling positions (B, Q, heads, P, 2), relative to the size of the feature map of each point.

        ``references`` are (B, Q, 1, 1, 2 or 4).
        """
        center, size = references[..., :2], references[..., 2:]
        if valid_ratios is not None:
            ratios = torch.cat([valid_ratios[:, i : i + 1].expand(-1, n, -1) for i, n in enumerate(self.num_points)], 1)
            ratios = ratios[:, None, None]
            center, size = center * ratios, size * ratios if size.shape[-1] else size
        if size.shape[-1]:
            return center + offsets * self.point_scale * size * self.offset_scale
        return center + offsets / _level_sizes(tuple(spatial_shapes), tuple(self.num_points), offsets.device)


@cached_tensors
def _level_sizes(
    spatial_shapes: tuple[tuple[int, int], ...], num_points: tuple[int, ...], device: torch.device
) -> Tensor:
    """Return (P, 2) width and height of each point's feature map. The result is cached: do not modify it."""
    levels = zip(spatial_shapes, num_points, strict=True)
    rows = [[width, height] for (height, width), count in levels for _ in range(count)]
    return sizes_to_tensor(rows, device)
