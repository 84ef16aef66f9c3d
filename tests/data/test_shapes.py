"""Masks and keypoints of the ``deim_shapes`` dataset."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from deim.data.datasets.polygons import mask_to_polygons
from deim.data.datasets.shapes import CLASSES, KEYPOINTS, draw_shapes, write_shapes


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the dataset of the fixture ``shapes`` with masks and keypoints."""
    folder = tmp_path_factory.mktemp("annotated")
    for _ in write_shapes(folder, train_images=24, val_images=6, size=96, masks=True, keypoints=True):
        pass
    return folder


def rasterize(polygons: list[list[int]], height: int, width: int) -> np.ndarray:
    return coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(polygons, height, width))).astype(bool)


def read_content(folder: Path, split: str = "train") -> dict:
    return json.loads((folder / "annotations" / f"instances_{split}.json").read_text(encoding="utf-8"))


def test_masks_and_keypoints_change_nothing_else(shapes: Path, annotated: Path) -> None:
    for image in sorted((shapes / "train").iterdir()):
        assert image.read_bytes() == (annotated / "train" / image.name).read_bytes()
    for split in ("train", "val"):
        content, original = read_content(annotated, split), read_content(shapes, split)
        assert all({"segmentation", "keypoints", "num_keypoints"} <= entry.keys() for entry in content["annotations"])
        for entry in content["annotations"]:
            del entry["segmentation"], entry["keypoints"], entry["num_keypoints"]
            entry["area"] = entry["bbox"][2] * entry["bbox"][3]
        for category in content["categories"]:
            assert category.pop("keypoints") == list(KEYPOINTS)
            assert category.pop("skeleton") == [[1, 2], [1, 3], [1, 4], [1, 5]]
        assert json.dumps(content) == json.dumps(original)


def test_boxes_and_areas_are_those_of_the_masks(annotated: Path) -> None:
    path = annotated / "annotations" / "instances_train.json"
    api = COCO(str(path))
    for annotation in api.loadAnns(api.getAnnIds()):
        runs = api.annToRLE(annotation)
        assert coco_masks.toBbox(runs).tolist() == annotation["bbox"]
        assert float(coco_masks.area(runs)) == annotation["area"]


def test_masks_are_the_visible_pixels() -> None:
    num_rings = 0
    for seed in range(40):
        _, drawn = draw_shapes(np.random.default_rng(seed), (72, 96))
        masks = [shape.mask for shape in drawn]
        assert np.sum(masks, axis=0).max() <= 1, "masks do not overlap"
        for shape in drawn:
            polygons = mask_to_polygons(shape.mask)
            assert (rasterize(polygons, 72, 96) == shape.mask).all()
            is_ring = CLASSES[shape.class_index] == "ring" and shape.mask.sum() == shape.area
            num_rings += is_ring
            assert len(polygons) >= 1 + is_ring, "a hole needs two polygons"
    assert num_rings > 5


def test_polygons_cover_exactly_the_pixels_of_any_mask() -> None:
    rng = np.random.default_rng(0)
    for density in (0.02, 0.3, 0.5, 0.8, 0.98):
        for _ in range(6):
            mask = rng.random((17, 23)) < density
            polygons = mask_to_polygons(mask)
            assert (rasterize(polygons, 17, 23) == mask).all() if polygons else not mask.any()
    assert mask_to_polygons(np.ones((2, 3), bool)) == [[0, 0, 3, 0, 3, 2, 0, 2]]


def test_keypoints_follow_the_shapes() -> None:
    seen = set()
    for seed in range(60):
        _, drawn = draw_shapes(np.random.default_rng(seed), (72, 96))
        for number, shape in enumerate(drawn):
            center, top, bottom, left, right = shape.keypoints
            above = np.any([other.mask for other in drawn[number + 1 :]] or [np.zeros((72, 96), bool)], axis=0)
            for x, y, visibility in shape.keypoints:
                seen.add(visibility)
                if visibility == 0:
                    assert x == y == 0
                elif visibility == 1:
                    assert above[min(round(y), 71), min(round(x), 95)]
            rows, columns = np.nonzero(shape.mask)
            tips = ((top, 1, rows.min()), (bottom, 1, rows.max()), (left, 0, columns.min()), (right, 0, columns.max()))
            if shape.mask.sum() == shape.area:
                for point, axis, extreme in tips:
                    # Anti-aliased pixels at sharp tips are not part of the mask.
                    assert point[2] == 0 or abs(point[axis] - extreme) < 3
            if CLASSES[shape.class_index] == "ring":
                assert center[2] == 0
    assert seen == {0, 1, 2}
