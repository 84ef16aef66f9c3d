"""Masks and keypoints of training samples."""

import pickle
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, Keypoints, PolygonMasks
from fvcore.transforms.transform import CropTransform
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from deim.data import DetectionMapper, build_train_loader
from deim.data.augmentation import RandomIoUCrop, RandomPhotometricDistort, RandomZoomOut, Resize
from deim.data.copy_blend import CopyBlend, move_keypoints, move_masks
from deim.data.geometry import AffineTransform, LazyImage
from deim.data.keypoints import keypoint_hflip_indices
from deim.data.masks import clip_polygon, decode_columns, mask_arrays, rasterize, run_lengths
from deim.data.mixup import Mixup, mix
from deim.data.mosaic import Mosaic
from deim.data.object_shapes import ObjectShapes
from deim.data.packing import PackedBatch, pack, unpack
from deim.data.records import CompactRecords, annotation_arrays, annotation_keypoints, annotation_masks
from deim.data.staged import StagedMapper
from deim.errors import ConfigError, DatasetError
from deim.schedule import Schedule, Stage
from tests.data.test_geometry import COLORS, HUES

NAN = float("nan")
FLIP = [0, 2, 1, 3]


def star(rng: np.random.Generator, center: np.ndarray, radius: float, points: int = 12) -> np.ndarray:
    """Return a polygon (K, 2) that is usually concave."""
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radii = radius * rng.uniform(0.5, 1, points)
    return center + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def coco_raster(polygons: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Return the union of polygons (K, 2) as a mask (H, W) bool, rasterized by pycocotools."""
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([p.reshape(-1) for p in polygons], *size))) > 0


def tight_box(mask: np.ndarray) -> list[float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def encode(mask: np.ndarray) -> dict:
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


@pytest.fixture(scope="module")
def colored(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Write black JPEG files, each with one object of its own color: a star, two stars, or a star with a hole (RLE)."""
    folder, rng = tmp_path_factory.mktemp("colored"), np.random.default_rng(7)
    records = []
    for index, color in enumerate(COLORS):
        height, width = (int(side) for side in rng.integers(120, 500, 2))
        size, center = (height, width), np.array([width, height]) * rng.uniform(0.4, 0.6, 2)
        radius = 0.35 * min(size)
        polygons = [star(rng, center, radius)]
        if index % 3 == 1:
            polygons = [star(rng, center + sign * radius * 0.6, radius * 0.5) for sign in (-1, 1)]
        mask = coco_raster(polygons, size)
        segmentation: Any = [polygon.reshape(-1).tolist() for polygon in polygons]
        if index % 3 == 2:
            mask &= ~coco_raster([star(rng, center, radius * 0.4)], size)
            segmentation = encode(mask)
        image = np.zeros((height, width, 3), np.uint8)
        image[mask] = color[::-1]
        path = folder / f"{index}.jpg"
        sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 98, *sampling])
        keypoints = rng.uniform(0, 1, (4, 3)) * [width, height, 3]
        keypoints[:, 2] = np.floor(keypoints[:, 2])
        annotation = {
            "bbox": tight_box(mask),
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": index,
            "segmentation": segmentation,
            "keypoints": keypoints.reshape(-1).tolist(),
        }
        records.append({"file_name": str(path), "height": height, "width": width, "annotations": [annotation]})
    return records


def visible_mask(image: np.ndarray, label: int) -> np.ndarray:
    """Return the pixels (H, W) bool of one hue in an image (H, W, 3)."""
    pixels = image.astype(float)
    cosines = pixels @ (COLORS / np.linalg.norm(COLORS, axis=1, keepdims=True)).T
    is_bright = np.linalg.norm(pixels, axis=2) > np.linalg.norm(COLORS[label]) / 2
    return is_bright & (cosines.argmax(axis=2) == label)


STAGES = {
    "plain": (Stage.PLAIN, None),
    "strong": (Stage.STRONG, None),
    "dense": (Stage.DENSE, Mosaic(tile_size=140, degrees=10)),
}


def staged_mapper(**options: Any) -> StagedMapper:
    settings = {
        "strong": [RandomZoomOut(), RandomIoUCrop()],
        "weak": [T.RandomFlip(prob=0.5)],
        "multi_scale_repeat": 1,
        "masks": True,
        "keypoints": True,
        "keypoint_hflip_indices": FLIP,
        "mosaic_prob": 1.0,
    }
    return StagedMapper(Schedule(epochs=4), (256, 320), **{**settings, **options})


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("case", STAGES)
def test_masks_match_the_visible_objects(colored: list[dict], case: str, stride: int) -> None:
    stage, mosaic = STAGES[case]
    mapper = staged_mapper(mosaic=mosaic, mask_stride=stride)
    records = mapper.fields.compact(colored)
    ious = []
    for seed in range(24):
        np.random.seed(seed)
        sample = mapper.mapper_for(stage, records)(records[seed % HUES])
        image, instances = sample["image"].permute(1, 2, 0).numpy(), sample["instances"]
        height, width = image.shape[:2]
        assert instances.gt_masks.tensor.shape[1:] == (-(-height // stride), -(-width // stride))
        assert instances.gt_masks.tensor.dtype == torch.bool
        labels = instances.gt_classes.tolist()
        for label, mask in zip(labels, instances.gt_masks.tensor.numpy(), strict=True):
            visible = visible_mask(image, label)
            if labels.count(label) > 1 or visible.sum() < 1500:
                continue
            centers = visible[stride // 2 :: stride, stride // 2 :: stride]
            ious.append(iou(mask[: centers.shape[0], : centers.shape[1]], centers))
    assert len(ious) > 14
    assert np.mean(ious) > (0.96 if stride == 1 else 0.92)
    assert min(ious) > (0.9 if stride == 1 else 0.8)


def test_masks_and_keypoints_change_neither_images_nor_boxes(colored: list[dict]) -> None:
    for stage, mosaic in STAGES.values():
        samples = []
        for options in ({}, {"masks": False, "keypoints": False}):
            mapper = staged_mapper(mosaic=mosaic, color=[RandomPhotometricDistort()], **options)
            np.random.seed(3)
            samples.append(mapper.mapper_for(stage, mapper.fields.compact(colored))(colored[5]))
        assert torch.equal(samples[0]["image"], samples[1]["image"])
        boxes = [sample["instances"].gt_boxes.tensor for sample in samples]
        assert torch.equal(*boxes)
        assert samples[1]["instances"].get_fields().keys() == {"gt_boxes", "gt_classes"}


class CropLeftHalf(T.Augmentation):
    """User-defined augmentation whose transform is not known to be affine."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return CropTransform(0, 0, image.shape[1] // 2, image.shape[0])


def map_single(annotations: list[dict], augmentations: list, size: tuple[int, int] = (60, 100), **options: Any) -> Any:
    """Return the instances of a gray image of ``size`` after augmentations."""
    record = {"file_name": "a.jpg", "height": size[0], "width": size[1], "annotations": annotations}
    mapper = DetectionMapper(augmentations, is_train=True, read=lambda *_: np.zeros((*size, 3), np.uint8), **options)
    return mapper(record)["instances"]


def annotation(box: list[float] = (0, 0, 100, 60), **fields: Any) -> dict:
    return {"bbox": list(box), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, **fields}


RECTANGLE = [[10.0, 10, 60, 10, 60, 50, 10, 50]]


def rectangle_mask(size: tuple[int, int] = (60, 100)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[10:50, 10:60] = True
    return mask


@pytest.mark.parametrize("segmentation", [RECTANGLE, encode(rectangle_mask())], ids=["polygon", "RLE"])
def test_masks_that_were_cut_off_do_not_reappear(segmentation: Any) -> None:
    """A crop is followed by a larger canvas."""
    for crop in (CropLeftHalf(), AffineTransform(np.eye(2, 3), (60, 100), (60, 50))):
        extend = AffineTransform(np.array([[1, 0, 5], [0, 1, 0]]), (60, 50), (60, 120))
        instances = map_single(
            [annotation(segmentation=segmentation, keypoints=[55, 20, 2, 20, 20, 2])],
            [crop, extend],
            masks=True,
            keypoints=True,
            keypoint_hflip_indices=[0, 1],
        )
        expected = np.zeros((60, 120), bool)
        expected[10:50, 15:55] = True
        assert np.array_equal(instances.gt_masks.tensor[0].numpy(), expected)
        assert instances.gt_keypoints.tensor.tolist() == [[[0, 0, 0], [25, 20, 2]]]


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 8])
def test_strided_masks_cover_the_image(stride: int) -> None:
    size = (61, 103)
    mask = rectangle_mask(size)
    for segmentation in (RECTANGLE, encode(mask)):
        masks = map_single([annotation(segmentation=segmentation)], [], size, masks=True, mask_stride=stride).gt_masks
        assert masks.tensor.shape == (1, -(-61 // stride), -(-103 // stride))
        rows, columns = (np.arange(side) * stride + stride // 2 for side in masks.tensor.shape[1:])
        expected = np.pad(mask, ((0, stride), (0, stride)))[np.ix_(rows, columns)]
        difference = masks.tensor[0].numpy() ^ expected
        # Only pixels at the edge of the rectangle may differ.
        interior = cv2.erode(expected.astype(np.uint8), np.ones((3, 3))) > 0
        surroundings = cv2.dilate(expected.astype(np.uint8), np.ones((3, 3))) > 0
        assert not difference[interior | ~surroundings].any()
        assert masks.tensor.sum() * stride**2 == pytest.approx(2000, rel=0.2)


def contains(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return (N,) bool: whether a ray from each point to the right crosses an odd number of edges."""
    result = np.zeros(len(points), bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        crosses = (y0 > points[:, 1]) != (y1 > points[:, 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            result ^= crosses & (points[:, 0] < x0 + (points[:, 1] - y0) / (y1 - y0) * (x1 - x0))
    return result


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_clipped_polygons_contain_the_same_points_inside_of_the_rectangle(seed: int) -> None:
    rng = np.random.default_rng(seed)
    polygon = star(rng, rng.uniform(-20, 80, 2), rng.uniform(5, 60), int(rng.integers(3, 15)))
    low, high = np.array([10.0, 5.0]), np.array([50.0, 40.0])
    clipped = clip_polygon(polygon, low, high)
    assert (clipped >= low).all()
    assert (clipped <= high).all()
    points = rng.uniform(0, 60, (500, 2))
    is_inside = ((points > low) & (points < high)).all(axis=1)
    assert np.array_equal(contains(clipped, points), contains(polygon, points) & is_inside)


def test_rasterizer_limits_polygons_far_outside() -> None:
    huge = np.array([[-1e6, -1e6], [1e6, -1e6], [1e6, 1e6], [-1e6, 1e6]])
    far = np.array([[1e6, 1e6], [2e6, 1e6], [2e6, 2e6]])
    masks = rasterize([[huge], [far], [], [far, huge]], (30, 40))
    assert masks.dtype == bool
    assert masks[0].all()
    assert not masks[1].any()
    assert not masks[2].any()
    assert masks[3].all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), share=st.floats(0, 1))
def test_run_lengths_and_columns_equal_those_of_the_mask(seed: int, share: float) -> None:
    mask = cv2.resize(np.random.default_rng(seed).random((5, 6)), (70, 90)) < share
    pixels = mask.T.reshape(-1)
    changes = np.flatnonzero(np.diff(pixels.astype(int))) + 1
    expected = np.diff(np.concatenate([[0], changes, [len(pixels)]]))
    if pixels[0]:
        expected = np.concatenate([[0], expected])
    assert run_lengths(encode(mask)["counts"]).tolist() == expected.tolist()
    start = seed % 60
    assert np.array_equal(decode_columns(encode(mask), start, start + 10), mask[:, start : start + 10].T)


def test_uncompressed_rle() -> None:
    mask = rectangle_mask()
    runs = run_lengths(encode(mask)["counts"]).tolist()
    for counts in (runs, tuple(runs), encode(mask)["counts"].decode()):
        (arrays,) = [mask_arrays([{"size": [60, 100], "counts": counts}], ["a"], (60, 100))]
        assert np.array_equal(coco_mask.decode(arrays.rle(0)) > 0, mask)


def mirror(keypoints: np.ndarray, width: int) -> np.ndarray:
    """Flip keypoints (P, 3) by a loop."""
    flipped = np.zeros_like(keypoints)
    for index, source in enumerate(FLIP):
        x, y, visibility = keypoints[source]
        if visibility > 0:
            flipped[index] = width - x, y, visibility
    return flipped


def test_flips_exchange_left_and_right_keypoints() -> None:
    rng = np.random.default_rng(0)
    keypoints = rng.integers(0, 60, (4, 3)).astype(float)
    keypoints[:, 2] = [2, 0, 1, 2]
    options = {"keypoints": True, "keypoint_hflip_indices": FLIP}

    def augmented(*augmentations: Any) -> np.ndarray:
        instances = map_single([annotation(keypoints=keypoints.reshape(-1).tolist())], list(augmentations), **options)
        return instances.gt_keypoints.tensor[0].numpy()

    once = augmented(T.RandomFlip(1.0))
    np.testing.assert_allclose(once, mirror(keypoints, 100))
    labeled = np.where(keypoints[:, 2:] > 0, keypoints, 0)
    np.testing.assert_allclose(augmented(T.RandomFlip(1.0), T.RandomFlip(1.0)), labeled)
    # A flip in both directions is a rotation: left remains left.
    rotated = augmented(T.RandomFlip(1.0), T.RandomFlip(1.0, horizontal=False, vertical=True))
    np.testing.assert_allclose(rotated, np.where(labeled[:, 2:] > 0, [100, 60, 0] + labeled * [-1, -1, 1], 0))
    # Transforms of other packages are recognized by their effect on points.
    np.testing.assert_allclose(augmented(T.TransformList([T.HFlipTransform(100)])), once)


def test_keypoints_outside_of_the_image_are_unlabeled() -> None:
    keypoints = [50, 0, 2, 50.1, 5, 2, 20, 60, 1, 5, -1, 2]
    instances = map_single(
        [annotation(keypoints=keypoints), annotation()],
        [CropLeftHalf()],
        keypoints=True,
        keypoint_hflip_indices=FLIP,
    )
    assert isinstance(instances.gt_keypoints, Keypoints)
    assert instances.gt_keypoints.tensor.dtype == torch.float32
    assert instances.gt_keypoints.tensor[0].tolist() == [[50, 0, 2], [0, 0, 0], [20, 60, 1], [0, 0, 0]]
    assert not instances.gt_keypoints.tensor[1].any()


def test_hflip_indices_of_metadata() -> None:
    MetadataCatalog.get("masks_faces").set(
        keypoint_names=["nose", "left_eye", "right_eye", "chin"], keypoint_flip_map=[("left_eye", "right_eye")]
    )
    MetadataCatalog.get("masks_no_flip").set(keypoint_names=["a", "b"], keypoint_flip_map=[])
    assert keypoint_hflip_indices("masks_faces").tolist() == FLIP
    assert keypoint_hflip_indices(["masks_faces", "masks_faces"]).tolist() == FLIP
    assert keypoint_hflip_indices("masks_no_flip").tolist() == [0, 1]
    MetadataCatalog.get("masks_no_map").set(keypoint_names=["a", "b"])
    MetadataCatalog.get("masks_unknown").set(keypoint_names=["a", "b"], keypoint_flip_map=[("a", "c")])
    for name, message in {
        "masks_nothing": "have no keypoint_names",
        "masks_no_map": "have no keypoint_flip_map",
        "masks_unknown": "has 'c', which is not one of its keypoint_names",
        ("masks_faces", "masks_no_flip"): "have different keypoints",
    }.items():
        with pytest.raises(ConfigError, match=message):
            keypoint_hflip_indices(name)


def test_dropped_objects_lose_their_masks_and_keypoints() -> None:
    def with_shape(box: list[float], x: float, **fields: Any) -> dict:
        polygon = [x, 5, x + 8, 5, x + 8, 15, x, 15]
        return annotation(box, segmentation=[polygon], keypoints=[x, 7, 2], **fields)

    annotations = [
        with_shape([0, 0, 10, 20], 1, iscrowd=1),
        with_shape([20, 0, 30, 20], 21),
        with_shape([40, 0, 40, 20], 41),
        with_shape([60, 0, 70, 20], 61),
        with_shape([80, 0, 80.5, 20], 81),
    ]
    options = {"masks": True, "keypoints": True, "keypoint_hflip_indices": [0]}
    for augmentations in ([], [T.RandomFlip(1.0)]):
        instances = map_single(annotations, augmentations, **options)
        assert len(instances) == len(instances.gt_masks) == len(instances.gt_keypoints) == 2
        for box, mask, keypoints in zip(
            instances.gt_boxes.tensor, instances.gt_masks.tensor, instances.gt_keypoints.tensor, strict=True
        ):
            left, _, right, _ = box.tolist()
            columns = torch.nonzero(mask.any(dim=0))[:, 0]
            assert left <= columns[0] < columns[-1] < right
            assert left <= keypoints[0, 0] <= right


def test_crop_drops_masks_and_keypoints_of_objects_centered_outside(colored: list[dict]) -> None:
    mapper = DetectionMapper([RandomIoUCrop(prob=1.0)], True, masks=True, keypoints=True, keypoint_hflip_indices=FLIP)
    record = {**colored[0], "annotations": [colored[0]["annotations"][0], annotation([0, 0, 20, 20])]}
    counts = set()
    for seed in range(20):
        np.random.seed(seed)
        instances = mapper(record)["instances"]
        assert len(instances) == len(instances.gt_masks) == len(instances.gt_keypoints)
        counts.add(len(instances))
    assert counts == {1, 2}


def test_objects_without_masks_or_keypoints_remain() -> None:
    annotations = [
        annotation(),
        annotation(segmentation=[]),
        annotation(segmentation=[[1, 2, 3, 4]]),
        annotation(segmentation=RECTANGLE, keypoints=[]),
    ]
    for mask_format, kind in (("bitmask", BitMasks), ("polygon", PolygonMasks)):
        instances = map_single(
            annotations, [], masks=True, keypoints=True, keypoint_hflip_indices=[0, 1], mask_format=mask_format
        )
        assert isinstance(instances.gt_masks, kind)
        assert instances.gt_masks.nonempty().tolist() == [False, False, False, True]
        assert instances.gt_keypoints.tensor.shape == (4, 2, 3)
        assert not instances.gt_keypoints.tensor.any()
    empty = map_single([], [], masks=True, keypoints=True, keypoint_hflip_indices=[0, 1], mask_stride=4)
    assert empty.gt_masks.tensor.shape == (0, 15, 25)
    assert empty.gt_keypoints.tensor.shape == (0, 2, 3)


def test_compact_records_have_the_arrays_of_their_annotations(colored: list[dict]) -> None:
    records = [*colored[3:5], {**colored[1], "annotations": []}, colored[8], *colored[9:12]]
    compact = CompactRecords(records, masks=True, num_keypoints=4)
    assert len(compact) == len(records)
    for index, record in enumerate(records):
        expected, actual = annotation_masks(record), annotation_masks(compact[index])
        for name in ("points", "polygon_ends", "object_ends", "rle_bytes", "rle_ends", "rle_sizes"):
            assert np.array_equal(getattr(actual, name), getattr(expected, name)), name
            assert getattr(actual, name).dtype == getattr(expected, name).dtype
        assert np.array_equal(annotation_keypoints(compact[index], 4), annotation_keypoints(record, 4))
        assert len(actual) == len(annotation_arrays(record)[0])
        assert not {"annotations", "segmentation"} & compact[index].keys()
    with pytest.raises(ConfigError, match="created without mask_arrays"):
        annotation_masks(CompactRecords(records)[0])


# annotation fields -> error message, or None if the object is used
BAD_INPUT: dict[str, tuple[dict, str | None]] = {
    "two points": ({"segmentation": [[1, 2, 3, 4]]}, None),
    "an odd number of coordinates": ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, None),
    "self-intersecting": ({"segmentation": [[10, 10, 50, 50, 50, 10, 10, 50]]}, None),
    "one pixel": ({"segmentation": [[10, 10, 11, 10, 11, 11, 10, 11]]}, None),
    "a single point": ({"segmentation": [[10, 10, 10, 10, 10, 10]]}, None),
    "a line": ({"segmentation": [[10, 10, 20, 10, 30, 10]]}, None),
    "outside": ({"segmentation": [[500, 10, 550, 50, 550, 10]]}, None),
    "far outside": ({"segmentation": [[-9e6, -9e6, 9e6, 0, 0, 9e6]]}, None),
    "arrays": ({"segmentation": [np.array(RECTANGLE[0]).reshape(-1, 2)], "keypoints": np.zeros((2, 3))}, None),
    "a polygon of NaN": ({"segmentation": [[NAN, 10, 50, 50, 50, 10]]}, "a.jpg, object 2: a polygon contains NaN/Inf"),
    "a huge polygon": ({"segmentation": [[1e30, 10, 50, 50, 50, 10]]}, "object 2: a polygon contains NaN/Inf or"),
    "text": ({"segmentation": "polygon"}, "a.jpg, object 2: segmentation is 'polygon'; it must be a list of polygons"),
    "a flat list": ({"segmentation": [1, 2, 3, 4, 5, 6]}, "a.jpg, object 2: segmentation is .1, 2, 3, 4, 5, 6."),
    "a polygon of text": ({"segmentation": [["a"] * 6]}, "a.jpg, object 2: a polygon contains something that is not"),
    "another size": (
        {"segmentation": encode(np.ones((30, 40)))},
        r"a.jpg, object 2: the mask is 40 x 30 \(width x height\), but the image is 100 x 60",
    ),
    "too few runs": ({"segmentation": {"size": [60, 100], "counts": [10, 20]}}, "object 2: the RLE has 30 pixels"),
    "a negative run": ({"segmentation": {"size": [60, 100], "counts": [-10, 6010]}}, "object 2: the RLE has 6000"),
    "no counts": ({"segmentation": {"size": [60, 100]}}, "object 2: segmentation is not a valid RLE"),
    "counts of text": ({"segmentation": {"size": [60, 100], "counts": "\x7f\x7f"}}, "object 2: .* not a valid RLE"),
    "counts that end early": ({"segmentation": {"size": [60, 100], "counts": b"oo"}}, "object 2: .* not a valid RLE"),
    "counts of other letters": ({"segmentation": {"size": [60, 100], "counts": "ö"}}, "object 2: .* not a valid RLE"),
    "keypoints of NaN": ({"keypoints": [1, NAN, 2, 1, 2, 2]}, "a.jpg, object 2: keypoints contain NaN/Inf"),
    "keypoints of text": ({"keypoints": ["x"] * 6}, "a.jpg, object 2: keypoints contain something that is not"),
    "three keypoints": ({"keypoints": [1, 2, 2] * 3}, "a.jpg, object 2 has 9 keypoint values, but the 2 keypoints"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input(case: str) -> None:
    fields, message = BAD_INPUT[case]
    annotations = [annotation(iscrowd=1), annotation(**fields), annotation(segmentation=RECTANGLE)]
    options: dict[str, Any] = {"masks": True, "keypoints": True, "keypoint_hflip_indices": [0, 1]}
    mapper = DetectionMapper([], True, **options)
    record = {"file_name": "a.jpg", "height": 60, "width": 100, "annotations": annotations}
    if message is not None:
        with pytest.raises((DatasetError, ConfigError), match=message):
            map_single(annotations, [], **options)
        with pytest.raises((DatasetError, ConfigError), match=message):
            mapper.fields.compact([record])
        return
    mapper.fields.compact([record])
    for augmentations in ([], [T.RandomFlip(1.0), RandomZoomOut(prob=1.0)], [CropLeftHalf(), Resize((31, 17))]):
        instances = map_single(annotations, augmentations, **options)
        assert instances.gt_masks.tensor[1].any()
        assert len(instances.gt_masks) == 2
        map_single(annotations, augmentations, masks=True, mask_format="polygon")
        map_single(annotations, augmentations, masks=True, mask_stride=4)


def test_error_names_the_object_with_invalid_keypoints() -> None:
    annotations = [annotation(), annotation(iscrowd=1), annotation(keypoints=[1, NAN, 2, 1, 2, 2])]
    with pytest.raises(DatasetError, match="object 3: keypoints contain NaN/Inf"):
        map_single(annotations, [], keypoints=True, keypoint_hflip_indices=[0, 1])


def test_mask_of_another_size_than_an_image_of_unknown_size(monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"file_name": "a.jpg", "annotations": [annotation(segmentation=encode(np.ones((30, 40))))]}
    mapper = DetectionMapper([], True, masks=True)
    compact = mapper.fields.compact([record])
    monkeypatch.setattr("deim.data.mapper.open_lazy_image", lambda *_: LazyImage(None, (60, 100), np.zeros((1, 4))))
    with pytest.raises(DatasetError, match=r"a.jpg: a mask is 40 x 30 \(width x height\), but the image is 100 x 60"):
        mapper(compact[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_format": "rle"}, "mask_format='rle' is not valid; choose one of bitmask, polygon"),
        ({"mask_stride": 0}, "mask_stride must be a positive integer, got 0"),
        ({"mask_stride": 1.5}, "mask_stride must be a positive integer, got 1.5"),
        ({"mask_format": "polygon", "mask_stride": 4}, "mask_format='polygon' needs mask_stride=1, got 4"),
        ({"keypoints": True}, "keypoints=True needs the keypoints of the dataset: set dataset_name"),
    ],
)
def test_invalid_settings(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DetectionMapper([], True, **options)
    with pytest.raises(ConfigError, match=message):
        StagedMapper(Schedule(epochs=4), (64, 64), **options)


def test_polygon_format_rejects_rle() -> None:
    record = {"file_name": "a.jpg", "annotations": [annotation(segmentation=encode(rectangle_mask()))]}
    mapper = DetectionMapper([], True, masks=True, mask_format="polygon")
    with pytest.raises(ConfigError, match="mask_format='polygon' needs polygons"):
        mapper.fields.compact([record])


def test_loader_reports_missing_keypoint_metadata(colored: list[dict]) -> None:
    mapper = DetectionMapper([], True, keypoints=True, dataset_name="masks_without_metadata")
    with pytest.raises(ConfigError, match="'masks_without_metadata' have no keypoint_names"):
        build_train_loader(colored, mapper=mapper, total_batch_size=2, num_workers=0)


SCHEDULE = Schedule(epochs=6, dense_epochs=(1, 5), no_aug_epochs=1)
BATCH = 8


def load_batches(colored: list[dict], start: int = 0, count: int = 18, workers: int = 0, **options: Any) -> list:
    """Return batches as lists of {field: tensor}."""
    mapper = StagedMapper(
        SCHEDULE,
        (64, 96),
        color=[RandomPhotometricDistort()],
        strong=[RandomZoomOut(), RandomIoUCrop()],
        weak=[T.RandomFlip()],
        mosaic=Mosaic(tile_size=48),
        multi_scale_repeat=1,
        masks=True,
        keypoints=True,
        keypoint_hflip_indices=FLIP,
        **{"mask_stride": 4, **options},
    )
    loader = build_train_loader(
        colored,
        mapper=mapper,
        total_batch_size=BATCH,
        num_workers=workers,
        seed=5,
        mixup=Mixup(prob=0.5),
        batch_operations=[CopyBlend(prob=0.8, min_area=9)],
    )
    loader.start_iter = start
    stream = iter(loader)
    return [[describe(sample) for sample in next(stream)] for _ in range(count)]


def describe(sample: dict) -> dict[str, Any]:
    instances = sample["instances"]
    masks = instances.gt_masks
    return {
        "image": sample["image"],
        "boxes": instances.gt_boxes.tensor,
        "masks": masks.tensor if isinstance(masks, BitMasks) else [[p.tolist() for p in m] for m in masks.polygons],
        "keypoints": instances.gt_keypoints.tensor,
    }


def batches_are_equal(first: list, second: list) -> bool:
    return all(
        torch.equal(a[name], b[name]) if isinstance(a[name], torch.Tensor) else a[name] == b[name]
        for batches in zip(first, second, strict=True)
        for a, b in zip(*batches, strict=True)
        for name in a
    )


@pytest.fixture(scope="module")
def reference(colored: list[dict]) -> list:
    return load_batches(colored)


def test_batches_have_a_mask_and_keypoints_per_box(reference: list) -> None:
    for batch in reference:
        for sample in batch:
            height, width = sample["image"].shape[1:]
            count = len(sample["boxes"])
            assert sample["masks"].shape == (count, -(-height // 4), -(-width // 4))
            assert sample["keypoints"].shape == (count, 4, 3)
    objects = [sum(len(sample["boxes"]) for sample in batch) for batch in reference]
    assert max(objects[3:15]) > 2 * BATCH, "mosaic, mixup and copy-blend add objects"


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(colored: list[dict], reference: list, workers: int) -> None:
    assert batches_are_equal(load_batches(colored, workers=workers), reference)


@pytest.mark.parametrize("start", [4, 13])
def test_resumed_run_has_the_same_batches(colored: list[dict], reference: list, start: int) -> None:
    assert batches_are_equal(load_batches(colored, start, 18 - start, workers=1), reference[start:])


def test_polygons_pass_through_workers(colored: list[dict]) -> None:
    records = [record for record in colored if isinstance(record["annotations"][0]["segmentation"], list)]
    options = {"mask_format": "polygon", "mask_stride": 1, "start": 2, "count": 6}
    batches = load_batches(records, **options)
    assert batches_are_equal(load_batches(records, workers=2, **options), batches)
    assert any(len(mask) > 1 for batch in batches for sample in batch for mask in sample["masks"])


def make_sample(count: int, mask_format: str = "bitmask", **fields: Any) -> dict:
    rng = np.random.default_rng(count)
    polygons = [[star(rng, np.array([8.0, 8]), 7).reshape(-1)] * (number % 3) for number in range(count)]
    instances = Instances(
        (16, 20), gt_boxes=Boxes(torch.rand(count, 4)), gt_classes=torch.arange(count), gt_masks=PolygonMasks(polygons)
    )
    if mask_format == "bitmask":
        instances.gt_masks = BitMasks(torch.rand(count, 4, 5) > 0.5)
    instances.gt_keypoints = Keypoints(torch.rand(count, 3, 3))
    for name, value in fields.items():
        instances.set(name, value)
    return {"image": torch.randint(0, 256, (3, 16, 20), dtype=torch.uint8), "instances": instances, "image_id": count}


@pytest.mark.parametrize("counts", [(2, 0, 4), (0, 0), (3,)])
@pytest.mark.parametrize("mask_format", ["bitmask", "polygon"])
def test_packing_preserves_masks_and_keypoints(mask_format: str, counts: tuple, monkeypatch) -> None:
    samples = [make_sample(count, mask_format) for count in counts]
    packed = pack(samples)
    assert isinstance(packed, PackedBatch)
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    for batch in (packed, packed.pin_memory()):
        unpacked = unpack(batch)
        assert batches_are_equal([[describe(s) for s in unpacked]], [[describe(s) for s in samples]])
        assert [s["image_id"] for s in unpacked] == list(counts)


def test_batches_of_different_fields_are_not_packed() -> None:
    other = make_sample(2)
    other["instances"].remove("gt_keypoints")
    for samples in (
        [make_sample(2), other],
        [make_sample(2), make_sample(2, "polygon")],
        [make_sample(2), make_sample(1, gt_masks=BitMasks(torch.zeros(1, 8, 10)))],
        [make_sample(2), make_sample(1, gt_keypoints=Keypoints(torch.zeros(1, 4, 3)))],
        [make_sample(2, gt_masks=torch.zeros(2, 4, 5))],
        [make_sample(2, gt_scores=torch.zeros(2))],
    ):
        assert pack(samples) is samples


def test_mixup_keeps_the_masks_and_keypoints_of_both() -> None:
    first, second = make_sample(2), make_sample(3)
    instances = mix([first], [second], 0.5)[0]["instances"]
    parts = [sample["instances"] for sample in (first, second)]
    assert torch.equal(instances.gt_masks.tensor, torch.cat([part.gt_masks.tensor for part in parts]))
    assert torch.equal(instances.gt_keypoints.tensor, torch.cat([part.gt_keypoints.tensor for part in parts]))


def test_moved_masks_equal_a_loop_over_pixels() -> None:
    rng = np.random.default_rng(0)
    size = (40, 56)
    windows = [(3, 5, 20, 30), (0, 0, 56, 40), (10, 1, 11, 2)]
    targets = [(30, 12, 47, 37), (0, 0, 56, 40), (55, 39, 56, 40)]
    moves = list(zip(windows, targets, strict=True))
    for stride in (1, 4):
        shape = (size[0] // stride, size[1] // stride)
        masks = rng.random((3, *shape)) < 0.5
        moved = move_masks(BitMasks(torch.from_numpy(masks)), moves, size).tensor.numpy()
        for mask, result, (window, target) in zip(masks, moved, moves, strict=True):
            expected = np.zeros(shape, bool)
            for row in range(shape[0]):
                for column in range(shape[1]):
                    x, y = (column + 0.5) * stride, (row + 0.5) * stride
                    if target[0] <= x < target[2] and target[1] <= y < target[3]:
                        source_x, source_y = x - target[0] + window[0], y - target[1] + window[1]
                        expected[row, column] = mask[int(source_y // stride), int(source_x // stride)]
            assert np.array_equal(result, expected)


def test_moved_polygons_and_bitmaps_are_equal() -> None:
    rng = np.random.default_rng(1)
    polygons = [[star(rng, np.array([30.0, 25]), 20).reshape(-1)], [], [star(rng, np.array([10.0, 5]), 4).reshape(-1)]]
    masks = np.stack([coco_raster(p, (60, 80)) if p else np.zeros((60, 80), bool) for p in polygons])
    moves = [((20, 10, 45, 40), (50, 20, 75, 50)), ((0, 0, 5, 5), (1, 1, 6, 6)), ((50, 30, 60, 40), (0, 0, 10, 10))]
    moved_bitmaps = move_masks(BitMasks(masks), moves, (60, 80)).tensor.numpy()
    moved_polygons = BitMasks.from_polygon_masks(move_masks(PolygonMasks(polygons), moves, (60, 80)), 60, 80)
    assert iou(moved_bitmaps[0], moved_polygons.tensor[0].numpy()) > 0.93
    assert not moved_bitmaps[1:].any()
    assert not moved_polygons.tensor[1:].any()


def test_moved_keypoints() -> None:
    keypoints = Keypoints([[[10, 10, 2], [30, 10, 2], [12, 12, 0]], [[0, 0, 1], [5, 5, 2], [6, 5, 2]]])
    moves = [((5, 5, 20, 20), (25, 15, 40, 30)), ((0, 0, 5, 5), (0, 0, 5, 5))]
    assert move_keypoints(keypoints, moves).tensor.tolist() == [
        [[30, 20, 2], [0, 0, 0], [0, 0, 0]],
        [[0, 0, 1], [5, 5, 2], [0, 0, 0]],
    ]


def test_copied_objects_have_the_masks_that_are_drawn() -> None:
    """Without transparency, the pixels of a copied object are exactly its mask."""
    images = np.zeros((2, 48, 64, 3), np.uint8)
    images[1, 10:30, 20:40] = 200
    samples = []
    for number, image in enumerate(images):
        instances = Instances(
            (48, 64), gt_boxes=Boxes([[20, 10, 40, 30]] * number), gt_classes=torch.zeros(number).long()
        )
        instances.gt_masks = BitMasks(np.repeat(image[None, ..., 0] > 0, number, axis=0))
        instances.gt_keypoints = Keypoints(torch.tensor([[[25.0, 15, 2]]] * number).reshape(number, 1, 3))
        samples.append({"image": torch.from_numpy(image).permute(2, 0, 1), "instances": instances})
    operation = CopyBlend(num_objects=1, blend=False)
    for seed in range(10):
        mixed = operation.apply(samples[0], samples, 0.5, np.random.default_rng(seed))
        assert len(mixed["instances"]) == 1
        assert torch.equal(mixed["instances"].gt_masks.tensor[0], mixed["image"][0] > 0)
        box = mixed["instances"].gt_boxes.tensor[0]
        assert mixed["instances"].gt_keypoints.tensor[0, 0].tolist() == [box[0] + 5, box[1] + 5, 2]


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_warped_rle_equals_a_loop_over_pixels(seed: int, stride: int) -> None:
    rng = np.random.default_rng(seed)
    mask = cv2.resize(rng.random((5, 6)), (70, 50)) < 0.3
    matrix = rng.uniform(-1.5, 1.5, (2, 3))
    matrix[:, 2] = np.array([30, 30]) - matrix[:, :2] @ [35, 25]
    shapes = ObjectShapes(mask_arrays([encode(mask), encode(np.zeros_like(mask))], ["a", "b"]))
    shapes.transform(AffineTransform(matrix, (50, 70), (60, 60)), (50, 70))
    warped, empty = shapes.bitmasks(np.ones(2, bool), (60, 60), stride)
    inverse = np.linalg.inv(matrix[:, :2])
    expected = np.zeros_like(warped)
    for row, column in np.ndindex(*expected.shape):
        center = (np.array([column, row]) + 0.5) * stride
        x, y = np.floor(inverse @ (center - matrix[:, 2])).astype(int)
        expected[row, column] = 0 <= x < 70 and 0 <= y < 50 and mask[y, x]
    assert expected.any()
    assert (warped != expected).mean() < 0.02
    assert not empty.any()


@pytest.mark.parametrize("offset", [(70, 0), (0, 50), (-70, 0), (0, -50)])
def test_rle_outside_of_the_image_is_an_empty_mask(offset: tuple[int, int]) -> None:
    shapes = ObjectShapes(mask_arrays([encode(np.ones((50, 70), bool))], ["a"]))
    matrix = np.array([[1.0, 0, offset[0]], [0, 1, offset[1]]])
    shapes.transform(AffineTransform(matrix, (50, 70), (50, 70)), (50, 70))
    assert not shapes.bitmasks(np.ones(1, bool), (50, 70), 1).any()


def test_ranks_share_the_samples_of_a_batch(colored: list[dict], reference: list) -> None:
    halves = []
    for rank in (0, 1):
        with (
            mock.patch("detectron2.utils.comm.get_world_size", return_value=2),
            mock.patch("detectron2.utils.comm.get_rank", return_value=rank),
        ):
            halves.append(load_batches(colored, start=3, count=4))
    for first, second, whole in zip(*halves, reference[3:7], strict=True):
        assert batches_are_equal([[*first, *second]], [whole])


def test_workers_need_no_metadata(colored: list[dict]) -> None:
    """A spawned worker does not have the datasets that the main process registered."""
    MetadataCatalog.get("masks_spawned").set(keypoint_names=list("abcd"), keypoint_flip_map=[("b", "c")])
    mapper = staged_mapper(keypoint_hflip_indices=None, dataset_name="masks_spawned")
    records = mapper.fields.compact(colored)
    MetadataCatalog.remove("masks_spawned")
    in_worker = pickle.loads(pickle.dumps(mapper))
    sample = in_worker.mapper_for(Stage.PLAIN, records)(records[0])
    assert sample["instances"].gt_keypoints.tensor.shape == (1, 4, 3)


def test_masks_with_loaders_of_other_packages(colored: list[dict]) -> None:
    mapper = staged_mapper(dataset=colored, total_batch_size=4, mask_stride=2, multi_scale_repeat=None)
    instances = mapper(colored[1])["instances"]
    assert instances.gt_masks.tensor.shape[1:] == (128, 160)
    assert instances.gt_keypoints.tensor.shape[1:] == (4, 3)


NUMBERS = st.one_of(st.integers(-300, 300), st.integers(-(10**400), 10**400), st.floats(), st.booleans(), st.none())
VALUES = st.recursive(
    NUMBERS | st.text(max_size=4),
    lambda values: (
        st.lists(values, max_size=8)
        | st.lists(st.floats(-50, 150), min_size=4, max_size=9)
        | st.fixed_dictionaries({"size": st.just([60, 100]) | values, "counts": values | st.binary(max_size=12)})
        | st.dictionaries(st.text(max_size=3), values, max_size=2)
    ),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None)
@given(segmentation=VALUES, keypoints=VALUES)
def test_arbitrary_annotations_are_used_or_reported(segmentation: Any, keypoints: Any) -> None:
    for fields in ({"segmentation": segmentation}, {"keypoints": keypoints}):
        message = None
        try:
            instances = map_single(
                [annotation(**fields)],
                [T.RandomFlip(1.0), RandomZoomOut(prob=1.0)],
                masks=True,
                keypoints=True,
                keypoint_hflip_indices=[0],
            )
        except (DatasetError, ConfigError) as error:
            message = str(error)
        if message is not None:
            assert message.startswith("a.jpg, object 1")
        else:
            assert len(instances.gt_masks) == len(instances.gt_keypoints) == 1
