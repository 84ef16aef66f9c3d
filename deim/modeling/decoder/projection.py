"""The encoder's maps, made as wide as the queries."""

from collections.abc import Sequence

from torch import Tensor, nn

from deim.layers import ConvNorm


class MapProjection(nn.ModuleList):
    """A 1x1 convolution with normalization for each map.

    Args:
        in_channels: widths of the maps.
        dim: of the queries.
        skip_equal: leave maps alone that are as wide as the queries (D-FINE); RT-DETR projects all.
    """

    def __init__(self, in_channels: Sequence[int], dim: int, skip_equal: bool = False):
        super().__init__(
            nn.Identity() if skip_equal and width == dim else ConvNorm(width, dim) for width in in_channels
        )
        for projection in self:
            if isinstance(projection, ConvNorm) and not skip_equal:
                nn.init.xavier_uniform_(projection.conv.weight)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Project (B, C, h, w) of each level to (B, dim, h, w).

        Raises:
            ValueError: if there are not as many maps, or they are of other widths.
        """
        widths = [x.shape[1] for x in maps]
        if len(widths) != len(self):
            raise ValueError(
                f"the encoder makes {len(widths)} maps, decoder.input_proj.in_channels is for {len(self)}: set it to "
                f"{widths}, and decoder.layer.num_points to as many numbers"
            )
        return [projection(x) for projection, x in zip(self, maps, strict=True)]
