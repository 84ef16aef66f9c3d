"""Projection of the encoder's maps to the width of the queries."""

from collections.abc import Sequence

from torch import Tensor, nn

from deim.layers import ConvBNAct


class MapProjection(nn.ModuleList):
    """1x1 convolution with normalization for each map.

    Args:
        in_channels: widths of the maps.
        dim: width of the queries.
        skip_equal: do not project maps that have the width of the queries (D-FINE); RT-DETR projects all maps.
    """

    def __init__(self, in_channels: Sequence[int], dim: int, skip_equal: bool = False):
        super().__init__(
            nn.Identity() if skip_equal and width == dim else ConvBNAct(width, dim) for width in in_channels
        )
        for projection in self:
            if isinstance(projection, ConvBNAct):
                nn.init.xavier_uniform_(projection.conv.weight)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Project (B, C, h, w) of each level to (B, dim, h, w).

        Raises:
            ValueError: if the number of maps differs from that of ``in_channels``.
        """
        widths = [x.shape[1] for x in maps]
        if len(widths) != len(self):
            raise ValueError(
                f"the encoder returns {len(widths)} maps, but decoder.input_proj.in_channels has {len(self)} entries: "
                f"set it to {widths}, and decoder.layer.num_points to the same number of entries"
            )
        return [projection(x) for projection, x in zip(self, maps, strict=True)]
