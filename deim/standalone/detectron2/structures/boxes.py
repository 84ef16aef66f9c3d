"""Axis-aligned boxes in absolute XYXY coordinates, and the ways of writing one."""

from enum import IntEnum, unique

import numpy as np
import torch
from torch import Tensor


@unique
class BoxMode(IntEnum):
    """Ways to write a box; the numbers are part of detectron2's dataset format."""

    XYXY_ABS = 0
    XYWH_ABS = 1
    XYXY_REL = 2
    XYWH_REL = 3
    XYWHA_ABS = 4

    @staticmethod
    def convert(box, from_mode: "BoxMode", to_mode: "BoxMode"):
        """Convert boxes between XYXY and XYWH.

        Args:
            box: 4 numbers, or an array or tensor of shape (N, 4).

        Returns:
            the same kind of object.

        Raises:
            NotImplementedError: for another pair of modes.
        """
        if from_mode == to_mode:
            return box
        signs = {
            (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS): 1.0,
            (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS): -1.0,
        }
        if (from_mode, to_mode) not in signs:
            raise NotImplementedError(f"Conversion from {from_mode!r} to {to_mode!r} is not supported")
        if isinstance(box, (list, tuple)):
            numbers = np.asarray(box, dtype=np.float64)
        else:
            numbers = box.clone() if isinstance(box, Tensor) else box.copy()
        numbers[..., 2:] += signs[from_mode, to_mode] * numbers[..., :2]
        return type(box)(numbers.tolist()) if isinstance(box, (list, tuple)) else numbers


class Boxes:
    """N boxes as a float tensor of shape (N, 4), absolute XYXY."""

    def __init__(self, tensor: Tensor):
        tensor = torch.as_tensor(tensor)
        if not tensor.is_floating_point():
            tensor = tensor.to(torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape(-1, 4)
        if tensor.dim() != 2 or tensor.size(-1) != 4:
            raise AssertionError(f"Boxes needs a tensor of shape (N, 4), got {tuple(tensor.shape)}")
        self.tensor = tensor

    def clone(self) -> "Boxes":
        return Boxes(self.tensor.clone())

    def to(self, device) -> "Boxes":
        return Boxes(self.tensor.to(device=device))

    def area(self) -> Tensor:
        """(N,) areas."""
        size = self.tensor[:, 2:] - self.tensor[:, :2]
        return size[:, 0] * size[:, 1]

    def clip(self, box_size: tuple[int, int]) -> None:
        """Clip in place to an image of ``(height, width)``."""
        height, width = box_size
        limit = self.tensor.new_tensor([width, height, width, height])
        self.tensor = torch.minimum(self.tensor.clamp(min=0), limit)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """(N,) bool: both sides are longer than ``threshold``."""
        return (self.tensor[:, 2:] - self.tensor[:, :2] > threshold).all(dim=1)

    def scale(self, scale_x: float, scale_y: float) -> None:
        self.tensor = self.tensor * self.tensor.new_tensor([scale_x, scale_y, scale_x, scale_y])

    def __getitem__(self, item) -> "Boxes":
        picked = self.tensor[item]
        return Boxes(picked.view(1, -1) if isinstance(item, int) else picked)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __iter__(self):
        yield from self.tensor

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"

    @classmethod
    def cat(cls, boxes_list: list["Boxes"]) -> "Boxes":
        return cls(torch.cat([b.tensor for b in boxes_list]) if boxes_list else torch.empty(0, 4))

    @property
    def device(self) -> torch.device:
        return self.tensor.device
