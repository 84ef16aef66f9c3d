"""Axis-aligned boxes in absolute XYXY coordinates, and box formats."""

from enum import IntEnum, unique

import numpy as np
import torch
from torch import Tensor


@unique
class BoxMode(IntEnum):
    """Box formats. The numbers are part of detectron2's dataset format."""

    XYXY_ABS = 0
    XYWH_ABS = 1
    XYXY_REL = 2
    XYWH_REL = 3
    XYWHA_ABS = 4

    @staticmethod
    def convert(box, from_mode: "BoxMode", to_mode: "BoxMode"):
        """Convert boxes between XYXY_ABS and XYWH_ABS.

        Args:
            box: a list or tuple of 4 numbers, or an array or tensor of shape (N, 4). It is not modified.

        Returns:
            The converted box with the type and dtype of ``box``, or ``box`` itself if the modes are equal.

        Raises:
            AssertionError: if a list has neither 4 nor 5 numbers, or a mode is relative.
            NotImplementedError: if a mode is XYWHA_ABS.
        """
        if from_mode == to_mode:
            return box
        if isinstance(box, (list, tuple)):
            if len(box) not in (4, 5):
                raise AssertionError(f"BoxMode.convert needs a list of 4 or 5 numbers, got {len(box)}")
            boxes = torch.tensor(box)[None]
        else:
            boxes = torch.tensor(box) if isinstance(box, np.ndarray) else box.clone()
        if {from_mode, to_mode} & {BoxMode.XYXY_REL, BoxMode.XYWH_REL}:
            raise AssertionError("Relative mode not yet supported!")
        if {from_mode, to_mode} != {BoxMode.XYXY_ABS, BoxMode.XYWH_ABS}:
            raise NotImplementedError(
                f"The bundled subset of detectron2 does not convert {from_mode!r} to {to_mode!r}. "
                "Install detectron2 for rotated boxes."
            )
        for min_index, max_index in ((0, 2), (1, 3)):
            if to_mode == BoxMode.XYXY_ABS:
                boxes[:, max_index] += boxes[:, min_index]
            else:
                boxes[:, max_index] -= boxes[:, min_index]
        if isinstance(box, (list, tuple)):
            return type(box)(boxes[0].tolist())
        return boxes.numpy() if isinstance(box, np.ndarray) else boxes


class Boxes:
    """Boxes of one image in absolute XYXY coordinates.

    Attributes:
        tensor: float32 tensor of shape (N, 4).
    """

    def __init__(self, tensor: Tensor):
        """Store ``tensor`` as float32.

        Args:
            tensor: a tensor, array or nested list of shape (N, 4), or empty with any shape.

        Raises:
            AssertionError: if the shape is not (N, 4).
        """
        if isinstance(tensor, Tensor):
            tensor = tensor.to(torch.float32)
        else:
            tensor = torch.as_tensor(tensor, dtype=torch.float32, device="cpu")
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
        """Return the areas, shape (N,)."""
        size = self.tensor[:, 2:] - self.tensor[:, :2]
        return size[:, 0] * size[:, 1]

    def clip(self, box_size: tuple[int, int]) -> None:
        """Clip the boxes in place to an image of size ``(height, width)``.

        Raises:
            AssertionError: if a coordinate is NaN or infinite.
        """
        if not torch.isfinite(self.tensor).all():
            raise AssertionError("Box tensor contains infinite or NaN!")
        height, width = box_size
        x, y = self.tensor[:, 0::2].clamp(min=0, max=width), self.tensor[:, 1::2].clamp(min=0, max=height)
        self.tensor = torch.stack([x, y], dim=-1).flatten(1)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """Return a bool tensor of shape (N,), True where both sides are longer than ``threshold``."""
        return (self.tensor[:, 2:] - self.tensor[:, :2] > threshold).all(dim=1)

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply the x and y coordinates in place."""
        self.tensor = self.tensor * self.tensor.new_tensor([scale_x, scale_y, scale_x, scale_y])

    def __getitem__(self, item) -> "Boxes":
        selected = self.tensor[item]
        return Boxes(selected.view(1, -1) if isinstance(item, int) else selected)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __iter__(self):
        yield from self.tensor

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"

    @classmethod
    def cat(cls, boxes_list: list["Boxes"]) -> "Boxes":
        """Concatenate boxes.

        Raises:
            AssertionError: if ``boxes_list`` is not a list or tuple of Boxes.
        """
        if not isinstance(boxes_list, (list, tuple)) or not all(isinstance(boxes, Boxes) for boxes in boxes_list):
            raise AssertionError("Boxes.cat needs a list of Boxes")
        return cls(torch.cat([boxes.tensor for boxes in boxes_list]) if boxes_list else torch.empty(0))

    @property
    def device(self) -> torch.device:
        return self.tensor.device
