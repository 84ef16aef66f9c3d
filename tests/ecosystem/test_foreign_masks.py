"""Masks and keypoints of our samples equal those of detectron2, and train its Mask R-CNN and Keypoint R-CNN."""

import copy
import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.structures import BoxMode
from detectron2.utils.events import EventStorage
from pycocotools import mask as coco_mask
from torch import nn

from deim.data import DetectionMapper, build_train_loader
from deim.data.augmentation import RandomIoUCrop, RandomPhotometricDistort, RandomZoomOut
from deim.data.copy_blend import CopyBlend
from deim.data.keypoints import keypoint_hflip_indices
from deim.data.mixup import Mixup
from deim.data.mosaic import Mosaic
from deim.data.staged import StagedMapper
from deim.fallback import is_standalone
from deim.schedule import Schedule

pytestmark = pytest.mark.skipif(is_standalone("detectron2"), reason="needs the real detectron2")

SIZE = (90, 120)
DATASET = "foreign_masks"
NAMES = ["nose", "left_eye", "right_eye"]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Write images of bright shapes; register the metadata of their keypoints."""
    MetadataCatalog.get(DATASET).set(keypoint_names=NAMES, keypoint_flip_map=[("left_eye", "right_eye")])
    folder, rng = tmp_path_factory.mktemp("masks"), np.random.default_rng(0)
    return [make_record(folder / f"{index}.png", rng) for index in range(8)]


def make_record(path: Path, rng: np.random.Generator) -> dict:
    image = np.full((*SIZE, 3), 40, np.uint8)
    annotations = []
    for center in ([30, 45], [85, 40]):
        angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)
        offsets = rng.uniform(12, 28, (8, 1)) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        # A multiple of 1/8 is the same number in float32.
        polygon = np.round((offsets + center) * 8) / 8
        cv2.fillPoly(image, [polygon.astype(np.int32)], (250, 200, 90))
        low, high = polygon.min(axis=0), polygon.max(axis=0)
        keypoints = np.round((offsets[:3] / 2 + center) * 8) / 8
        annotations.append(
            {
                "bbox": [*low.tolist(), *high.tolist()],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": 0,
                "iscrowd": 0,
                "segmentation": [polygon.reshape(-1).tolist()],
                "keypoints": np.concatenate([keypoints, [[2], [1], [2]]], axis=1).reshape(-1).tolist(),
            }
        )
    cv2.imwrite(str(path), image)
    return {"file_name": str(path), "height": SIZE[0], "width": SIZE[1], "annotations": annotations}


def with_rle(record: dict) -> dict:
    record = copy.deepcopy(record)
    for annotation in record["annotations"]:
        (annotation["segmentation"],) = coco_mask.frPyObjects(annotation["segmentation"], *SIZE)
    return record


# Constructed in the test, because the bundled subset lacks some of them.
AUGMENTATIONS = {
    "none": lambda: [],
    "flip": lambda: [T.RandomFlip(1.0)],
    "resize and flip": lambda: [T.Resize((131, 77)), T.RandomFlip(1.0)],
    "flip, rotation and resize": lambda: [T.RandomFlip(1.0), T.RandomRotation([-25, 25]), T.Resize((100, 90))],
}


@pytest.mark.parametrize("mask_format", ["bitmask", "polygon", "RLE"])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_samples_equal_those_of_detectron2(records: list[dict], name: str, mask_format: str) -> None:
    from detectron2.data import DatasetMapper
    from detectron2.data.detection_utils import create_keypoint_hflip_indices

    indices = create_keypoint_hflip_indices([DATASET])
    assert keypoint_hflip_indices(DATASET).tolist() == indices
    instance_format = "polygon" if mask_format == "polygon" else "bitmask"
    ours = DetectionMapper(
        AUGMENTATIONS[name](), True, masks=True, keypoints=True, mask_format=instance_format, dataset_name=DATASET
    )
    theirs = DatasetMapper(
        True,
        augmentations=AUGMENTATIONS[name](),
        image_format="RGB",
        use_instance_mask=True,
        use_keypoint=True,
        instance_mask_format=instance_format,
        keypoint_hflip_indices=indices,
    )
    for seed, record in enumerate(records):
        record = with_rle(record) if mask_format == "RLE" else record
        np.random.seed(seed)
        expected = theirs(copy.deepcopy(record))["instances"]
        np.random.seed(seed)
        actual = ours(record)["instances"]
        torch.testing.assert_close(actual.gt_boxes.tensor, expected.gt_boxes.tensor, atol=1e-4, rtol=0)
        torch.testing.assert_close(actual.gt_keypoints.tensor, expected.gt_keypoints.tensor, atol=1e-4, rtol=0)
        if instance_format == "bitmask":
            assert (actual.gt_masks.tensor != expected.gt_masks.tensor).float().mean() < 1e-3
        elif "rotation" not in name:  # polygons that a rotation moves out of the image are clipped here
            for polygons, expected_polygons in zip(actual.gt_masks, expected.gt_masks, strict=True):
                np.testing.assert_allclose(polygons[0], expected_polygons[0], atol=1e-4)


class TinyBackbone(Backbone):
    """Two convolutions, stride 8."""

    def __init__(self, cfg: Any, input_shape: ShapeSpec):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"features": self.layers(images)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"features": ShapeSpec(channels=32, stride=8)}


def rcnn(task: str) -> nn.Module:
    """Return a small Mask R-CNN ("mask") or Keypoint R-CNN ("keypoint") of detectron2."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.BACKBONE.NAME = "TinyBackbone"
    cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["features"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16, 32, 64]]
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 32
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.MASK_ON, cfg.MODEL.KEYPOINT_ON = task == "mask", task == "keypoint"
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = [16]
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 3
    cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE = 1
    if "TinyBackbone" not in BACKBONE_REGISTRY:
        BACKBONE_REGISTRY.register(TinyBackbone)
    return build_model(cfg)


@pytest.mark.parametrize(("task", "mask_format"), [("mask", "polygon"), ("mask", "bitmask"), ("keypoint", "polygon")])
def test_rcnn_trains_on_dense_o2o(records: list[dict], task: str, mask_format: str) -> None:
    """Mosaic, mixup and copy-blend make the samples, which pass through a worker process."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"masks": True, "mask_format": mask_format} if task == "mask" else {"keypoints": True}
    mapper = StagedMapper(
        Schedule(epochs=8, dense_epochs=(0, 8), no_aug_epochs=0),
        (64, 64),
        color=[RandomPhotometricDistort()],
        strong=[RandomZoomOut(), RandomIoUCrop()],
        weak=[T.RandomFlip()],
        mosaic=Mosaic(tile_size=40),
        img_format="BGR",
        dataset_name=DATASET,
        **options,
    )
    loader = build_train_loader(
        records,
        mapper=mapper,
        total_batch_size=4,
        num_workers=1,
        mixup=Mixup(prob=0.5),
        batch_operations=[CopyBlend(prob=1.0)],
    )
    model = rcnn(task)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for batch in itertools.islice(loader, 12):
        with EventStorage():
            loss = model(batch)
        assert f"loss_{task}" in loss
        total = sum(loss.values())
        assert torch.isfinite(total)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
