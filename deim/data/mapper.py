"""From a record to what the model takes."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.data.transforms import AugInput, Augmentation, AugmentationList
from detectron2.structures import Boxes, BoxMode, Instances

from deim.errors import DatasetError


class DetectionMapper:
    """Reads the image of a record and augments it together with its boxes.

    Args:
        augmentations: detectron2 policies, in order.
        is_train: attach ``instances``.
        image_format: a PIL mode or "BGR".
        min_box_size: drop objects with a side shorter than this many pixels after augmentation.
    """

    def __init__(
        self,
        augmentations: Sequence[Augmentation],
        is_train: bool,
        image_format: str = "RGB",
        min_box_size: float = 1.0,
    ):
        self.augmentations = AugmentationList(list(augmentations))
        self.is_train, self.image_format, self.min_box_size = is_train, image_format, min_box_size

    def __call__(self, record: dict) -> dict:
        """
        Args:
            record: of detectron2's format; not changed.

        Returns:
            the record without annotations, with ``image``, uint8 (3, H, W), and, for training,
            ``instances``: ``gt_boxes`` and int64 ``gt_classes``. ``height`` and ``width`` stay those
            of the file.

        Raises:
            DatasetError: the image cannot be read or has not the size the record states.
        """
        sample = {key: value for key, value in copy.copy(record).items() if key != "annotations"}
        image, boxes, classes = self._load(sample, record)
        augmented = AugInput(image, boxes=boxes)
        self.augmentations(augmented)
        image = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        sample["image"] = torch.from_numpy(image)
        if self.is_train:
            sample["instances"] = self._instances(augmented.boxes, classes, augmented.image.shape[:2])
        return sample

    def _load(self, sample: dict, record: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image (H, W, 3), boxes (N, 4) and classes (N,) before augmentation."""
        image = self._read(sample)
        return image, *annotation_arrays(record.get("annotations", []), image.shape[:2])

    def _read(self, sample: dict) -> np.ndarray:
        try:
            image = detection_utils.read_image(sample["file_name"], format=self.image_format)
            detection_utils.check_image_size(sample, image)
        except (OSError, ValueError, SyntaxError) as error:
            raise DatasetError(f"cannot read image {sample['file_name']}: {error}") from error
        return np.ascontiguousarray(image)

    def _instances(self, boxes: np.ndarray, classes: np.ndarray, size: tuple[int, int]) -> Instances:
        height, width = size
        boxes = boxes.clip(0, [width, height, width, height])
        kept = (boxes[:, 2:] - boxes[:, :2] >= self.min_box_size).all(axis=1)
        return Instances(
            (height, width),
            gt_boxes=Boxes(torch.from_numpy(boxes[kept]).float()),
            gt_classes=torch.from_numpy(classes[kept]),
        )


def annotation_arrays(annotations: Sequence[dict], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) float64 XYXY, clipped to the image, and classes (N,) int64 of an image's objects.

    Crowds are left out, and so are boxes without area inside of the image.
    """
    annotations = [a for a in annotations if not a.get("iscrowd", 0)]
    if not annotations:
        return np.zeros((0, 4)), np.zeros(0, np.int64)
    boxes = np.array(
        [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations], dtype=np.float64
    )
    height, width = size
    boxes = boxes.clip(0, [width, height, width, height])
    classes = np.array([a["category_id"] for a in annotations], dtype=np.int64)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return boxes[kept], classes[kept]
