"""Transforms that are missing in fvcore."""

import numpy as np
import torch
from fvcore.transforms.transform import Transform
from PIL import Image
from torch.nn import functional as F

__all__ = ["ResizeTransform"]

_TORCH_MODES = {Image.NEAREST: "nearest", Image.BILINEAR: "bilinear", Image.BICUBIC: "bicubic"}


class ResizeTransform(Transform):
    """Resize an image from (h, w) to (new_h, new_w) pixels.

    uint8 images are resized by PIL, with antialiasing when shrinking; floating point images by torch, without it.
    """

    def __init__(self, h, w, new_h, new_w, interp=None):
        """Create the transform. ``interp`` is an interpolation method of PIL, by default bilinear."""
        super().__init__()
        interp = Image.BILINEAR if interp is None else interp
        self._set_attributes(locals())

    def apply_image(self, img, interp=None):
        """Resize an array of shape (H, W), (H, W, C) or, in floating point, (H, W, C, D).

        Raises:
            AssertionError: if the size of the image is not (h, w).
            NotImplementedError: if its dtype is neither uint8 nor floating point.
        """
        if img.shape[:2] != (self.h, self.w) or img.ndim > 4:
            raise AssertionError(f"The image has shape {img.shape}; the transform is for {(self.h, self.w)}")
        interp = self.interp if interp is None else interp
        return self._resize_by_pil(img, interp) if img.dtype == np.uint8 else self._resize_by_torch(img, interp)

    def _resize_by_pil(self, img, interp):
        is_single_channel = img.ndim > 2 and img.shape[2] == 1
        image = Image.fromarray(img[:, :, 0] if is_single_channel else img)
        resized = np.asarray(image.resize((self.new_w, self.new_h), interp))
        return resized[..., None] if is_single_channel else resized

    def _resize_by_torch(self, img, interp):
        mode = _TORCH_MODES[interp]
        # (H, W, ...) -> (1, channels, H, W)
        planes = torch.from_numpy(np.ascontiguousarray(img)).reshape(*img.shape[:2], -1).permute(2, 0, 1)[None]
        options = {} if mode == "nearest" else {"align_corners": False}
        resized = F.interpolate(planes, (self.new_h, self.new_w), mode=mode, **options)
        return resized[0].permute(1, 2, 0).reshape(self.new_h, self.new_w, *img.shape[2:]).numpy()

    def apply_coords(self, coords):
        """Scale points in place. ``coords`` has shape (N, 2), x before y."""
        coords[:, 0] = coords[:, 0] * (self.new_w / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h / self.h)
        return coords

    def apply_segmentation(self, segmentation):
        """Resize an array of labels by nearest-neighbor interpolation."""
        return self.apply_image(segmentation, interp=Image.NEAREST)

    def inverse(self):
        """Return the transform back to the original size."""
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)
