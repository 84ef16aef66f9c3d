"""Channels and stride of a feature map."""

from dataclasses import dataclass


@dataclass
class ShapeSpec:
    """The shape of a feature map. Unknown values are None."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
