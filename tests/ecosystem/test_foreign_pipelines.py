"""Augmentations of this project in detectron2 pipelines."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from deim.data.augmentation import (
    RandomIoUCrop,
    RandomPhotometricDistort,
    RandomSizeCrop,
    RandomZoomOut,
    Resize,
    ResizeShortestEdge,
)
from deim.fallback import is_standalone

SIZE = (60, 100)
POLICIES = {
    "resize": lambda: Resize((45, 140)),
    "shortest edge": lambda: ResizeShortestEdge([48]),
    "zoom-out": lambda: RandomZoomOut(prob=1.0),
    "crop": lambda: RandomSizeCrop(30, 50),
    "IoU crop": lambda: RandomIoUCrop(prob=1.0),
    "photometric": lambda: RandomPhotometricDistort(prob=1.0),
}


def aug_input(boxes: bool = True) -> T.AugInput:
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    labels = np.zeros(SIZE, np.int64)
    labels[20:40, 30:70] = 1_000_000
    return T.AugInput(image, boxes=np.array([[30.0, 20.0, 70.0, 40.0]]) if boxes else None, sem_seg=labels)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("seed", range(3))
def test_segmentation_follows_image_without_new_labels(name: str, seed: int) -> None:
    np.random.seed(seed)
    augmented = aug_input()
    transforms = T.AugmentationList([POLICIES[name]()])(augmented)
    assert augmented.sem_seg.shape == augmented.image.shape[:2]
    assert augmented.sem_seg.dtype == np.int64
    assert set(np.unique(augmented.sem_seg)) <= {0, 1_000_000}
    corners = transforms.apply_coords(np.array([[30.0, 20.0], [70.0, 40.0]])).clip(0, augmented.image.shape[1::-1])
    rows, columns = np.nonzero(augmented.sem_seg)
    if (corners[1] - corners[0]).min() >= 2:
        marked = [[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]]
        np.testing.assert_allclose(marked, corners, atol=1)


@pytest.mark.parametrize("name", POLICIES)
def test_inverse_transforms_restore_points(name: str) -> None:
    np.random.seed(0)
    transforms = T.AugmentationList([POLICIES[name](), Resize((33, 77))])(aug_input())
    points = np.array([[0.0, 0.0], [12.5, 40.0], [99.0, 3.0]])
    np.testing.assert_allclose(transforms.inverse().apply_coords(transforms.apply_coords(points)), points, atol=1e-9)


def test_resize_of_stacked_masks() -> None:
    masks = np.zeros((*SIZE, 5), bool)
    masks[10:20, :50, 3] = True
    mapped = Resize((120, 200)).get_transform(np.zeros((*SIZE, 3), np.uint8)).apply_segmentation(masks)
    assert mapped.dtype == bool
    assert mapped[..., 3].sum() == 4 * masks[..., 3].sum()
    assert not mapped[..., [0, 1, 2, 4]].any()


@pytest.mark.parametrize("name", POLICIES)
def test_augmentations_without_boxes(name: str) -> None:
    """detectron2's mapper applies policies without boxes in evaluation."""
    np.random.seed(0)
    augmented = aug_input(boxes=False)
    T.AugmentationList([POLICIES[name]()])(augmented)
    assert augmented.boxes is None
    assert augmented.image.ndim == 3


@pytest.mark.skipif(is_standalone("detectron2"), reason="needs the real detectron2")
@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
@pytest.mark.parametrize("is_train", [True, False])
def test_detectron2_mapper_accepts_augmentations_with_masks(mask_format: str, is_train: bool, tmp_path: Path) -> None:
    from detectron2.data import DatasetMapper
    from pycocotools import mask as coco_mask

    np.random.seed(0)
    cv2.imwrite(str(tmp_path / "a.png"), aug_input().image)
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[20:40, 30:70] = 1
    polygon = [[30.0, 20.0, 70.0, 20.0, 70.0, 40.0, 30.0, 40.0]]
    record = {
        "file_name": str(tmp_path / "a.png"),
        "height": SIZE[0],
        "width": SIZE[1],
        "annotations": [
            {
                "bbox": [30, 20, 70, 40],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": 0,
                "segmentation": polygon if mask_format == "polygon" else coco_mask.encode(mask),
            }
        ],
    }
    mapper = DatasetMapper(
        is_train,
        augmentations=[POLICIES[name]() for name in ("photometric", "zoom-out", "IoU crop", "resize")],
        image_format="RGB",
        use_instance_mask=True,
        instance_mask_format=mask_format,
    )
    sample = mapper(record)
    assert tuple(sample["image"].shape) == (3, 45, 140)
    if is_train:
        instances = sample["instances"]
        assert len(instances) == 1
        boxes = instances.gt_masks.get_bounding_boxes().tensor.clamp(min=0)
        np.testing.assert_allclose(boxes.numpy(), instances.gt_boxes.tensor.numpy(), atol=1.5)
