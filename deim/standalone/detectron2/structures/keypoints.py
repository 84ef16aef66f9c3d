"""Annotated keypoints of the objects of one image."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


class Keypoints:
    """Annotated keypoints.

    Attributes:
        tensor: float32 tensor of shape (N, K, 3): x, y in pixels, and visibility (0 not labeled, 1 not visible, 2
            visible).
    """

    def __init__(self, keypoints: Tensor | np.ndarray | list[list[float]]):
        """Store ``keypoints`` as float32.

        Raises:
            AssertionError: if the shape is not (N, K, 3).
        """
        device = keypoints.device if isinstance(keypoints, Tensor) else torch.device("cpu")
        tensor = torch.as_tensor(keypoints, dtype=torch.float32, device=device)
        if tensor.dim() != 3 or tensor.shape[2] != 3:
            raise AssertionError(f"Keypoints needs a tensor of shape (N, K, 3), got {tuple(tensor.shape)}")
        self.tensor = tensor

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def to(self, *args: Any, **kwargs: Any) -> "Keypoints":
        return type(self)(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __getitem__(self, item) -> "Keypoints":
        """Return the keypoints of objects at an index, a slice, a list or tensor of indices, or a bool tensor."""
        selected = self.tensor[item]
        return Keypoints(selected[None] if isinstance(item, int) else selected)

    def __repr__(self) -> str:
        return f"Keypoints(num_instances={len(self)})"

    @staticmethod
    def cat(keypoints_list: list["Keypoints"]) -> "Keypoints":
        """Concatenate keypoints of several images.

        Raises:
            AssertionError: if ``keypoints_list`` is not a list or tuple of Keypoints, or is empty.
        """
        is_list = isinstance(keypoints_list, (list, tuple)) and len(keypoints_list) > 0
        if not is_list or not all(isinstance(keypoints, Keypoints) for keypoints in keypoints_list):
            raise AssertionError("Keypoints.cat needs a non-empty list of Keypoints")
        return type(keypoints_list[0])(torch.cat([keypoints.tensor for keypoints in keypoints_list]))
