"""From a record to what the model takes."""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data.transforms import Augmentation
from detectron2.structures import Boxes, Instances

from deim.data.geometry import PendingImage
from deim.data.image import Reader, read_image
from deim.data.records import annotation_arrays, stated_size
from deim.errors import ConfigError

IMAGE_FORMATS = ("RGB", "BGR")


class DetectionMapper:
    """Reads the image of a record and augments it together with its boxes.

    Args:
        augmentations: detectron2 policies, in order. Neighbors among those of ``deim`` are done in one
            pass; others work as well.
        is_train: attach ``instances``.
        img_format: "RGB" or "BGR", the order of the channels of the sample. Augmentations get RGB. The name is detrex's.
        min_box_size: drop objects with a side shorter than this many pixels after augmentation.
        read: what decodes the images.
        image_format: detectron2's name of ``img_format``.

    Raises:
        ConfigError: if the format is another one.
    """

    def __init__(
        self,
        augmentations: Sequence[Augmentation],
        is_train: bool,
        img_format: str = "RGB",
        min_box_size: float = 1.0,
        read: Reader = read_image,
        image_format: str | None = None,
    ):
        img_format = image_format or img_format
        if img_format not in IMAGE_FORMATS:
            raise ConfigError(f"img_format={img_format!r} of the mapper; choose one of {', '.join(IMAGE_FORMATS)}")
        self.augmentations = list(augmentations)
        self.is_train, self.img_format, self.min_box_size = is_train, img_format, min_box_size
        self.read = read

    def __call__(self, record: dict) -> dict:
        """
        Args:
            record: of detectron2, or of :class:`deim.data.records.CompactRecords`; not changed.

        Returns:
            the record without its objects, with ``image``, uint8 (3, H, W) whose channels lie side by
            side in memory, and, for training, ``instances``: ``gt_boxes`` and int64 ``gt_classes``.
            ``height`` and ``width`` are those of the file.

        Raises:
            DatasetError: the image cannot be read or has not the size the record states.
        """
        sample = {key: value for key, value in record.items() if key not in ("annotations", "boxes", "classes")}
        pending, classes = self._load(record)
        sample.setdefault("height", pending.size[0])
        sample.setdefault("width", pending.size[1])
        sample["image"] = self._augmented(pending)
        if self.is_train:
            sample["instances"] = self._instances(pending.boxes, classes, pending.size)
        return sample

    def image(self, image: np.ndarray) -> torch.Tensor:
        """An image that is read already, uint8 (H, W, 3) RGB, as the model takes it; see :meth:`__call__`."""
        return self._augmented(PendingImage(image, (image.shape[0], image.shape[1]), np.zeros((0, 4))))

    def _augmented(self, pending: PendingImage) -> torch.Tensor:
        for policy in self.augmentations:
            pending.augment(policy)
        image = pending.render()
        if self.img_format == "BGR":
            image = image[..., ::-1]
        # Policies of others may leave views that torch cannot take.
        image = np.require(image, requirements=["C_CONTIGUOUS", "WRITEABLE"])
        return torch.from_numpy(image).permute(2, 0, 1)

    def _load(self, record: dict) -> tuple[PendingImage, np.ndarray]:
        """The image before augmentation, with boxes, and classes (N,)."""
        boxes, classes = annotation_arrays(record)
        return pending_image(record, boxes.astype(np.float64), self.read), classes

    def _instances(self, boxes: np.ndarray, classes: np.ndarray, size: tuple[int, int]) -> Instances:
        height, width = size
        boxes = boxes.clip(0, np.array([width, height, width, height]))
        kept = (boxes[:, 2:] - boxes[:, :2] >= self.min_box_size).all(axis=1)
        return Instances(
            (height, width),
            gt_boxes=Boxes(torch.from_numpy(boxes[kept].astype(np.float32))),
            gt_classes=torch.from_numpy(classes[kept]),
        )


def pending_image(record: dict, boxes: np.ndarray, read: Reader = read_image) -> PendingImage:
    """The image of a record; not read yet if the record states its size."""
    file_name, size = record["file_name"], stated_size(record)
    if size is not None:
        return PendingImage(lambda factor: read(file_name, size, factor), size, boxes)
    image = read(file_name)
    return PendingImage(image, (image.shape[0], image.shape[1]), boxes)
