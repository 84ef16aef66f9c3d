"""Augmentations of DETRPose, and the selection of objects with keypoints."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import instantiate
from detectron2.data.transforms import NoOpTransform

from deim.config import load_config
from deim.data import coco_dataset
from deim.data.augmentation import ColorJitter, PhotometricTransform, RandomZoomOut
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
