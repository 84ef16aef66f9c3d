from .boxes import Boxes, BoxMode
from .image_list import ImageList
from .instances import Instances
from .keypoints import Keypoints
from .masks import BitMasks, PolygonMasks, polygons_to_bitmask

__all__ = [
    "BitMasks",
    "BoxMode",
    "Boxes",
    "ImageList",
    "Instances",
    "Keypoints",
    "PolygonMasks",
    "polygons_to_bitmask",
]
