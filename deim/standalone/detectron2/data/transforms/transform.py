"""Transforms that fvcore does not have."""

import numpy as np
from fvcore.transforms.transform import Transform
from PIL import Image

__all__ = ["ResizeTransform"]


class ResizeTransform(Transform):
    """Resize from (h, w) to (new_h, new_w), by PIL (which filters when it shrinks)."""

    def __init__(self, h, w, new_h, new_w, interp=None):
        super().__init__()
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w
        self.interp = Image.BILINEAR if interp is None else interp

    def apply_image(self, img, interp=None):
        if img.shape[:2] != (self.h, self.w):
            raise AssertionError(f"image of size {img.shape[:2]}, transform made for {(self.h, self.w)}")
        if img.dtype != np.uint8:
            raise TypeError(f"ResizeTransform needs a uint8 image, got {img.dtype}")
        single = img.ndim == 3 and img.shape[2] == 1
        picture = Image.fromarray(img[..., 0] if single else img)
        resized = np.asarray(picture.resize((self.new_w, self.new_h), self.interp if interp is None else interp))
        return resized[..., None] if single else resized

    def apply_coords(self, coords):
        coords[:, 0] *= self.new_w / self.w
        coords[:, 1] *= self.new_h / self.h
        return coords

    def apply_segmentation(self, segmentation):
        return self.apply_image(segmentation, interp=Image.NEAREST)

    def inverse(self):
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)
