"""Channels and stride of a feature map."""

from dataclasses import dataclass


@dataclass
class ShapeSpec:
    """The shape of a feature map. None stands for what is not known."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
