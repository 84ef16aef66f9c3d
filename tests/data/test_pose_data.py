"""Augmentations of DETRPose, and the selection of objects with keypoints."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data.transforms import NoOpTransform, RandomFlip
from detectron2.structures import BoxMode
from pycocotools import mask as coco_masks

from deim.config import load_config
from deim.data import DetectionMapper, coco_dataset
from deim.data.areas import annotation_areas
from deim.data.augmentation import ColorJitter, PhotometricTransform, RandomZoomOut, Resize
from deim.data.copy_blend import CopyBlend
from deim.data.instance_fields import InstanceFields
from deim.data.mosaic import Mosaic
from deim.data.packing import pack, unpack
from deim.data.records import CompactRecords
from deim.data.staged import MosaicMapper
from deim.errors import ConfigError
from tests.data.layouts import write_json
from tests.data.test_annotation_formats import write_coco_data, write_coco_with_text_ids, write_yolo_pose


def test_only_objects_with_enough_keypoints_are_kept(tmp_path: Path) -> None:
    """Images without such objects are dropped; crowds do not count."""
    write_coco_data(tmp_path)
    content = json.loads((tmp_path / "train.json").read_text(encoding="utf-8"))
    image, other, third = content["images"][0], dict(content["images"][0], id=98), dict(content["images"][0], id=99)
    template = content["annotations"][0]
    points = {0: [0] * 9, 1: [20, 25, 1] + [0] * 6, 2: [20, 25, 1, 0, 0, 0, 30, 30, 2]}
    content["images"] = [image, other, third]
    content["annotations"] = [
        dict(template, id=number, image_id=image_id, keypoints=points[labeled], iscrowd=crowd)
        for number, (image_id, labeled, crowd) in enumerate(
            [(image["id"], 0, 0), (image["id"], 2, 0), (image["id"], 1, 0), (98, 1, 0), (98, 0, 0), (99, 2, 1)], start=1
        )
    ]
    write_json(tmp_path / "train.json", content)

    def kept(min_keypoints: int) -> list[list[int]]:
        records = coco_dataset(
            f"pose_{min_keypoints}_{tmp_path}", str(tmp_path / "train.json"), str(tmp_path / "images"),
            keypoints=True, min_keypoints=min_keypoints,
        )  # fmt: skip
        return [[sum(v > 0 for v in a["keypoints"][2::3]) for a in record["annotations"]] for record in records]

    assert kept(0) == [[0, 2, 1], [1, 0], [2]]
    assert kept(1) == [[2, 1], [1]]
    assert kept(2) == [[2]]


@pytest.mark.parametrize("write", [write_coco_data, write_coco_with_text_ids, write_yolo_pose])
def test_min_keypoints_of_a_recipe_applies_to_data_of_all_formats(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    """The evaluation keeps all objects. Without an evaluation split, both parts have the same images as without it."""
    data = tmp_path / tmp_path.name
    write(data)
    for number in range(1, 10):  # an image of every ten is held out
        add_image_without_keypoints(data, number)
    cfg = load_config("ecpose/ecpose_s_shapes", (), str(data))
    assert cfg.dataloader.train.dataset.min_keypoints == 1
    assert "min_keypoints" not in cfg.dataloader.test.dataset
    train = instantiate(cfg.dataloader.train.dataset)
    assert train
    assert all(sum(a["keypoints"][2::3]) > 0 for record in train for a in record["annotations"])
    held_out = instantiate(cfg.dataloader.test.dataset)
    assert any(sum(a["keypoints"][2::3]) == 0 for record in held_out for a in record["annotations"])
    assert not {record["file_name"] for record in train} & {record["file_name"] for record in held_out}


def add_image_without_keypoints(data: Path, number: int) -> None:
    """Add a copy of an image and of its annotations, in which no keypoint is labeled."""
    name = f"z{number}.jpg"  # the last images in the order of the names
    shutil.copy(data / "images/0.jpg", data / "images" / name)
    if (data / "labels").is_dir():
        (data / "labels" / f"z{number}.txt").write_text("0 0.3 0.5 0.4 0.3 0 0 0 0 0 0 0 0 0\n", encoding="utf-8")
        return
    content = json.loads((data / "train.json").read_text(encoding="utf-8"))
    annotation, image = content["annotations"][0], content["images"][0]
    is_text = isinstance(annotation["image_id"], str)
    content["images"].append(image | {"id": 500 + number, "file_name": name})
    image_id = str(500 + number) if is_text else 500 + number
    content["annotations"].append(annotation | {"id": 500 + number, "image_id": image_id, "keypoints": [0] * 9})
    write_json(data / "train.json", content)


SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


def area_record(folder: Path) -> dict:
    """Return a record of an image of 100 x 80 pixels: areas as numbers, from polygons, from a run length, and none."""
    cv2.imwrite(str(folder / "0.png"), np.full((80, 100, 3), 90, np.uint8))
    rle = coco_masks.frPyObjects({"size": [80, 100], "counts": [800, 80, 7120]}, 80, 100)
    boxes = {"bbox": [10, 10, 40, 40], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "keypoints": [20, 20, 2]}
    annotations = [
        boxes | {"area": 123.5, "segmentation": [SQUARE]},
        boxes | {"segmentation": [SQUARE, [0, 0, 10, 0, 0, 10]]},
        boxes | {"segmentation": {"size": [80, 100], "counts": rle["counts"].decode()}},
        boxes | {"area": 0, "segmentation": []},
        boxes | {"area": 77, "iscrowd": 1},
    ]
    return {"file_name": str(folder / "0.png"), "height": 80, "width": 100, "image_id": 1, "annotations": annotations}


def test_areas_of_annotations(tmp_path: Path) -> None:
    assert annotation_areas(area_record(tmp_path)).tolist() == [123.5, 450, 80, 900]


@pytest.mark.parametrize(
    "segmentation",
    [
        [1, 2, 3, 4, 5, 6],
        [[1, 2, 3]],
        [["a", "b"]],
        [[float("nan")] * 6],
        {"size": [80, 100], "counts": [1]},
        {},
        "x",
        7,
    ],
)
def test_the_area_of_a_malformed_mask_is_that_of_the_box(segmentation: Any, tmp_path: Path) -> None:
    record = area_record(tmp_path)
    record["annotations"] = [record["annotations"][1] | {"segmentation": segmentation}]
    assert annotation_areas(record).tolist() == [900]


def test_areas_follow_the_image(tmp_path: Path) -> None:
    """A flip and a resize scale the areas of annotations; mosaics, copy-blend, mixup and packing keep them."""
    options = {"keypoints": True, "areas": True, "keypoint_hflip_indices": [0]}
    record = area_record(tmp_path)
    fields = InstanceFields(**options)
    records = fields.compact([record, record])
    augmentations = [RandomFlip(prob=1.0), Resize((160, 300))]
    for source in (record, records[1]):
        sample = DetectionMapper(augmentations, True, **options)(source)
        np.testing.assert_allclose(sample["instances"].gt_areas, np.multiply([123.5, 450, 80, 900], 6), rtol=1e-5)
    mosaic = Mosaic(tile_size=80, degrees=0.0, translate=0.0, scale=(1.0, 1.0))
    placed = MosaicMapper(mosaic, (160, 160), [], records, **options)(records[0])["instances"]
    ratios = (placed.gt_areas / placed.gt_boxes.area()).numpy()
    np.testing.assert_allclose(ratios, np.tile(np.divide([123.5, 450, 80, 900], 900), 4), rtol=1e-4)
    samples = [sample, sample]
    blended = CopyBlend(min_area=0).apply(sample, samples, 0.5, np.random.default_rng(0))["instances"]
    assert set(blended.gt_areas.tolist()) == set(sample["instances"].gt_areas.tolist())
    assert len(blended) == 7
    for unpacked in unpack(pack(samples)):
        assert torch.equal(unpacked["instances"].gt_areas, sample["instances"].gt_areas)
    with pytest.raises(ConfigError, match="created without area_ratios"):
        DetectionMapper([], True, **options)(CompactRecords([record], num_keypoints=1)[0])
    assert not DetectionMapper([], True, **(options | {"areas": False}))(record)["instances"].has("gt_areas")


def test_centered_zoom_out_adds_equal_borders() -> None:
    image = np.full((40, 60, 3), 9, np.uint8)
    np.random.seed(0)
    for _ in range(20):
        zoomed = RandomZoomOut(prob=1.0, side_range=(1.0, 4.0), centered=True).get_transform(image).apply_image(image)
        for axis in (0, 1):
            inside = np.flatnonzero(zoomed.any(axis=(1 - axis, 2)))
            before, after = inside[0], zoomed.shape[axis] - 1 - inside[-1]
            assert len(inside) == image.shape[axis]
            assert abs(int(before) - int(after)) <= 1


def test_color_jitter_changes_all_colors_together() -> None:
    image = np.random.default_rng(0).integers(40, 200, (6, 5, 3)).astype(np.uint8)
    brighter = ColorJitter(prob=1.0, brightness=(1.2, 1.2), contrast=(1, 1), saturation=(1, 1), hue=(0, 0))
    np.testing.assert_allclose(brighter.get_transform(image).apply_image(image), image * 1.2, atol=6)  # uint8 in HSV
    np.random.seed(0)
    transforms = [ColorJitter(prob=0.5).get_transform(image) for _ in range(400)]
    applied = [transform for transform in transforms if isinstance(transform, PhotometricTransform)]
    assert len(applied) == pytest.approx(200, abs=40)
    assert all(isinstance(t, NoOpTransform) for t in transforms if t not in applied)
    for name, low, high in (
        ("brightness", 0.6, 1.4),
        ("contrast", 0.6, 1.4),
        ("saturation", 0.6, 1.4),
        ("hue", -0.4, 0.4),
    ):
        values = [getattr(transform, name) for transform in applied]
        assert low <= min(values) < low + 0.05
        assert high - 0.05 < max(values) <= high
    assert {transform.contrast_first for transform in applied} == {True, False}
    assert all(transform.order is None for transform in applied)
