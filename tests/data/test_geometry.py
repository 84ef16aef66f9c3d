"""Boxes follow their objects in all augmentations and stages; one composed pass equals separate passes."""

import colorsys

import cv2
import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.data.transforms import AugInput, Augmentation, AugmentationList, NoOpTransform
from detectron2.structures import BoxMode
from fvcore.transforms.transform import CropTransform, VFlipTransform

from deim.data.augmentation import (
    OneOf,
    PhotometricTransform,
    RandomIoUCrop,
    RandomPhotometricDistort,
    RandomSizeCrop,
    RandomZoomOut,
    Resize,
    ResizeShortestEdge,
)
from deim.data.geometry import AffineTransform, LazyImage, rgb_to_rgba, rgba_to_rgb
from deim.data.mosaic import Mosaic
from deim.data.records import CompactRecords
from deim.data.staged import StagedMapper
from deim.errors import ConfigError
from deim.schedule import Schedule, Stage


class FlipVertically(Augmentation):
    """User-defined augmentation with a transform of fvcore that is affine."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return VFlipTransform(image.shape[0]) if np.random.uniform() < 0.5 else NoOpTransform()


class CropToBright(Augmentation):
    """User-defined augmentation that reads pixels, with a transform that is not affine."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        columns = np.flatnonzero((image > 100).any(axis=(0, 2)))
        return CropTransform(int(columns[0]), 0, int(columns[-1] - columns[0] + 1), image.shape[0])


HUES = 24
COLORS = np.array([colorsys.hsv_to_rgb(i / HUES, 1, 1) for i in range(HUES)]) * 255


@pytest.fixture(scope="module")
def rectangles(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Write black JPEG files of many sizes, each with one rectangle of its own color."""
    folder, rng = tmp_path_factory.mktemp("rectangles"), np.random.default_rng(3)
    records = []
    for index, color in enumerate(COLORS):
        height, width = (int(side) for side in rng.integers(70, 500, 2))
        image = np.zeros((height, width, 3), np.uint8)
        left, top = int(width * rng.uniform(0.05, 0.4)), int(height * rng.uniform(0.05, 0.4))
        right, bottom = left + int(width * rng.uniform(0.3, 0.5)), top + int(height * rng.uniform(0.3, 0.5))
        image[top:bottom, left:right] = color[::-1]
        path = folder / f"{index}.jpg"
        sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 98, *sampling])
        box = {"bbox": [left, top, right, bottom], "bbox_mode": BoxMode.XYXY_ABS, "category_id": index}
        records.append({"file_name": str(path), "height": height, "width": width, "annotations": [box]})
    return records


def visible_box(image: np.ndarray, label: int) -> np.ndarray:
    """Return the XYXY box of the pixels of one hue in an image (H, W, 3)."""
    pixels = image.astype(float)
    norms = np.linalg.norm(pixels, axis=2)
    cosines = pixels @ (COLORS / np.linalg.norm(COLORS, axis=1, keepdims=True)).T
    mask = (norms > np.linalg.norm(COLORS[label]) / 2) & (cosines.argmax(axis=2) == label)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.full(4, np.nan)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=float)


STAGES = {
    "plain": (Stage.PLAIN, None),
    "strong": (Stage.STRONG, None),
    "final": (Stage.FINAL, None),
    "dense": (Stage.DENSE, Mosaic(tile_size=100, degrees=0)),
    "dense, rotated": (Stage.DENSE, Mosaic(tile_size=100, degrees=10)),
}


# DETR's augmentation, which resizes each image individually: either directly, or before and after a crop.
INDIVIDUAL_RESIZE = [
    OneOf(
        [
            [ResizeShortestEdge(range(96, 161, 32), max_size=266)],
            [
                ResizeShortestEdge([80, 100, 120]),
                RandomSizeCrop(70, 120),
                ResizeShortestEdge(range(96, 161, 32), max_size=266),
            ],
        ]
    )
]


@pytest.mark.parametrize("case", [*STAGES, "individual sizes"])
def test_boxes_match_the_visible_objects(rectangles: list[dict], case: str) -> None:
    stage, mosaic = STAGES.get(case, (Stage.PLAIN, None))
    mapper = StagedMapper(
        Schedule(epochs=4),
        (160, 192),
        strong=[RandomZoomOut(), RandomIoUCrop()],
        weak=[T.RandomFlip(prob=0.5), FlipVertically()],
        mosaic=mosaic,
        multi_scale_repeat=1,
        resize=INDIVIDUAL_RESIZE if case == "individual sizes" else None,
    )
    records, checked = CompactRecords(rectangles), 0
    for seed in range(120):
        np.random.seed(seed)
        sample = mapper.mapper_for(stage, records)(records[seed % HUES])
        image, instances = sample["image"].permute(1, 2, 0).numpy(), sample["instances"]
        labels, boxes = instances.gt_classes.tolist(), instances.gt_boxes.tensor.numpy()
        for label, box in zip(labels, boxes, strict=True):
            if labels.count(label) > 1 or (box[2:] - box[:2] < 8).any():
                continue
            visible = visible_box(image, label)
            if case == "dense, rotated":  # a rotated rectangle does not fill its box
                assert (visible[:2] >= box[:2] - 2).all(), (seed, label)
                assert (visible[2:] <= box[2:] + 2).all(), (seed, label)
            else:
                assert np.abs(visible - box).max() <= 2, (seed, label, visible, box)
            checked += 1
    assert checked > 60


def test_each_image_has_its_own_size(rectangles: list[dict]) -> None:
    mapper = StagedMapper(Schedule(epochs=4), (160, 192), resize=INDIVIDUAL_RESIZE)
    records, sizes = CompactRecords(rectangles), set()
    for seed in range(100):
        np.random.seed(seed)
        sample = mapper.mapper_for(Stage.PLAIN, records)(records[seed % HUES])
        height, width = sample["image"].shape[1:]
        assert sample["instances"].image_size == (height, width)
        assert max(height, width) <= 266
        sizes.add((height, width))
        if min(height, width) not in (96, 128, 160):
            assert max(height, width) == 266, "max_size limits the longer side"
        assert mapper.mapper_for(Stage.DENSE, records)(records[0])["image"].shape[1:] == (160, 192), (
            "mosaic and mixup need images of one size"
        )
    assert len(sizes) > 30


def apply_step_by_step(policies: list[Augmentation], record: dict, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Apply the augmentations one by one, as detectron2's mappers do."""
    np.random.seed(seed)
    image = cv2.imread(record["file_name"])[..., ::-1]
    augmented = AugInput(np.ascontiguousarray(image), boxes=record_boxes(record))
    AugmentationList(policies)(augmented)
    return augmented.image, augmented.boxes


def record_boxes(record: dict) -> np.ndarray:
    return np.array([record["annotations"][0]["bbox"]], dtype=np.float64)


def apply_in_one_pass(policies: list[Augmentation], record: dict, seed: int) -> tuple[np.ndarray, np.ndarray]:
    np.random.seed(seed)
    image = np.ascontiguousarray(cv2.imread(record["file_name"])[..., ::-1])
    lazy_image = LazyImage(image, image.shape[:2], record_boxes(record))
    for policy in policies:
        lazy_image.augment(policy)
    return lazy_image.render(), lazy_image.boxes


def test_one_pass_equals_many_passes(rectangles: list[dict]) -> None:
    """The images differ only by the blur of repeated interpolation at edges."""
    policies = [RandomPhotometricDistort(), RandomZoomOut(side_range=(1, 2)), RandomIoUCrop(), T.RandomFlip()]
    for seed in range(40):
        record = rectangles[seed % HUES]
        many_passes, boxes = apply_step_by_step([*policies, Resize((128, 160))], record, seed)
        one_pass, same_boxes = apply_in_one_pass([*policies, Resize((128, 160))], record, seed)
        np.testing.assert_allclose(boxes, same_boxes, atol=1e-6)
        difference = np.abs(many_passes.astype(int) - one_pass).max(axis=2)
        assert np.median(difference) <= 2
        assert (difference > 40).mean() < 0.05, seed


def test_user_defined_augmentations_are_applied_in_order(rectangles: list[dict]) -> None:
    policies = [T.RandomFlip(prob=1.0), CropToBright(), Resize((64, 64))]
    for record in rectangles[:6]:
        many_passes, boxes = apply_step_by_step(policies, record, 0)
        one_pass, same_boxes = apply_in_one_pass(policies, record, 0)
        assert np.abs(many_passes.astype(int) - one_pass).mean() < 2
        assert boxes[0, 0] < 2, "cropped to the rectangle"
        np.testing.assert_allclose(boxes, same_boxes)


def test_cropped_pixels_do_not_reappear() -> None:
    """A crop followed by a larger canvas is not a single affine map."""
    image = np.full((40, 40, 3), 200, np.uint8)
    lazy_image = LazyImage(image, (40, 40), np.zeros((0, 4)))
    lazy_image.transform(AffineTransform(np.array([[1, 0, -20], [0, 1, -20]]), (40, 40), (20, 20)))
    lazy_image.transform(AffineTransform(np.array([[1, 0, 30], [0, 1, 30]]), (20, 20), (60, 60)))
    result = lazy_image.render()
    assert (result[30:50, 30:50] == 200).all()
    result[30:50, 30:50] = 0
    assert not result.any()


def test_each_border_has_the_fill_of_its_transform() -> None:
    image = np.full((20, 20, 3), 200, np.uint8)
    for inner, outer in ((50, 50), (50, 90)):
        lazy_image = LazyImage(image, (20, 20), np.zeros((0, 4)))
        lazy_image.transform(AffineTransform(np.array([[1, 0, 10], [0, 1, 10]]), (20, 20), (40, 40), fill=inner))
        lazy_image.transform(AffineTransform(np.array([[1, 0, 10], [0, 1, 10]]), (40, 40), (60, 60), fill=outer))
        result = lazy_image.render()[..., 0]
        assert (result[20:40, 20:40] == 200).all()
        assert (result[10:20, 10:50] == inner).all()
        assert (result[:10] == outer).all()


def test_zoom_out_fill_survives_flip_and_resize() -> None:
    lazy_image = LazyImage(np.full((20, 20, 3), 200, np.uint8), (20, 20), np.zeros((0, 4)))
    np.random.seed(0)
    for policy in (RandomZoomOut(prob=1, side_range=(2, 2), fill=114), T.RandomFlip(prob=1.0), Resize((80, 80))):
        lazy_image.augment(policy)
    result = lazy_image.render()
    assert set(np.unique(result[[0, -1]])) | set(np.unique(result[:, [0, -1]])) == {114}
    assert (result == 200).mean() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("scale", [0.5, 0.3, 0.2, 0.1])
def test_downscaling_averages(scale: float) -> None:
    """A fine checkerboard pattern becomes gray."""
    pattern = np.indices((320, 320)).sum(axis=0) % 2 * 255
    image = np.repeat(pattern[..., None], 3, axis=2).astype(np.uint8)
    side = int(320 * scale)
    result = AffineTransform(np.array([[scale, 0, 0], [0, scale, 0]]), (320, 320), (side, side)).apply_image(image)
    assert abs(result.mean() - 127.5) < 3
    assert result[4:-4, 4:-4].std() < 40


def test_reduction_factor_keeps_the_visible_detail() -> None:
    def reduction(matrix: list) -> int:
        return AffineTransform(np.array(matrix), (100, 100), (100, 100)).reduction()

    assert reduction([[1, 0, 0], [0, 1, 0]]) == 1
    assert reduction([[0.5, 0, 9], [0, 0.5, 9]]) == 2
    assert reduction([[0.25, 0, 0], [0, 0.6, 0]]) == 1
    assert reduction([[0.17, 0.17, 0], [-0.17, 0.17, 0]]) == 4
    assert reduction([[-0.1, 0, 0], [0, 0.1, 0]]) == 8
    tiny = AffineTransform(np.array([[0.1, 0, 0], [0, 0.1, 0]]), (3, 50), (1, 5))
    assert tiny.reduction() == 2, "the factor does not exceed the shorter side"


def test_no_op_transform_does_not_read_the_image() -> None:
    def read(factor: int) -> np.ndarray:
        raise AssertionError("not needed")

    lazy_image = LazyImage(read, (10, 10), np.zeros((0, 4)))
    lazy_image.transform(NoOpTransform())
    lazy_image.augment(Resize((5, 5)))
    assert lazy_image.size == (5, 5)


def test_resize_keeps_at_least_one_pixel() -> None:
    image = np.zeros((1, 5000, 3), np.uint8)
    assert ResizeShortestEdge([480], max_size=1333).get_transform(image).apply_image(image).shape == (1, 1333, 3)


def test_invalid_augmentations_are_errors() -> None:
    with pytest.raises(ConfigError, match=r"min_ious must contain 1, which ends the search, got \[0\.5, 0\.9\]"):
        RandomIoUCrop(min_ious=[0.5, 0.9])
    with pytest.raises(ConfigError, match="the transform of RandomPhotometricDistort is not affine"):
        OneOf([[RandomPhotometricDistort(prob=1.0)]]).get_transform(np.zeros((8, 8, 3), np.uint8))


def test_brightness_of_zero_is_black() -> None:
    image = np.full((4, 4, 3), 200, np.uint8)
    transform = PhotometricTransform(0.0, 0.5, None, None, contrast_first=True, order=None)
    assert not transform.apply_image(image).any()


def test_negative_indices_of_compact_records_count_from_the_end() -> None:
    annotation = {"bbox": [0, 0, 4, 4], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    records = CompactRecords([{"annotations": [annotation] * count} for count in (2, 3)])
    assert len(records[-1]["boxes"]) == 3


def test_resizes_of_three_and_four_channels_are_equal() -> None:
    """Mosaics of resized images are drawn in three channels, those of rotated images in four."""
    rng = np.random.default_rng(0)
    for number in range(12):
        height, width = (int(side) for side in rng.integers(20, 90, 2))
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        scale = rng.uniform(0.4, 1.6, 2) * (1, -1 if number % 3 == 0 else 1)
        shift = rng.uniform(-20, 40, 2) - np.minimum(scale, 0) * (width, height)
        transform = AffineTransform(np.column_stack([np.diag(scale), shift]), (height, width), (64, 80))
        three, four = (np.full((64, 80, channels), 7, np.uint8) for channels in (3, 4))
        transform.draw_on(three, image)
        transform.draw_on(four, rgb_to_rgba(image))
        assert np.array_equal(three, rgba_to_rgb(four))
