"""Losses and gradients are finite for all valid ground truth, in every family and precision."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data.transforms import RandomFlip
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, Keypoints
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deim.config import with_keypoints, with_masks
from deim.data import DetectionMapper
from deim.data.augmentation import RandomIoUCrop, RandomZoomOut
from deim.modeling.losses.functional import focal_loss, matchability_aware_loss, varifocal_loss
from tests.conftest import long_except
from tests.faults.test_fuzzing import fuzzed
from tests.models import FAMILIES, batch, recipe, tiny_model

SIZE = 64


def objects(boxes: list[list[float]], classes: list[int] | None = None) -> Instances:
    labels = torch.tensor(classes if classes is not None else [0] * len(boxes), dtype=torch.int64)
    return Instances((SIZE, SIZE), gt_boxes=Boxes(torch.tensor(boxes).view(-1, 4)), gt_classes=labels)


def many(count: int) -> Instances:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(count, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 13], dim=1)
    return objects(boxes.tolist(), torch.randint(6, (count,), generator=generator).tolist())


LEGAL = {
    "none": objects([]),
    "one pixel": objects([[10, 10, 11, 11]]),
    "a pixel in the corner": objects([[SIZE - 1, SIZE - 1, SIZE, SIZE]]),
    "a line": objects([[0, 10, SIZE, 11]]),
    "as large as the image": objects([[0, 0, SIZE, SIZE]]),
    "the same twice": objects([[5, 5, 20, 20]] * 2),
    "the same in two classes": objects([[5, 5, 20, 20]] * 2, [1, 4]),
    "more than queries": many(60),
}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_finite(family: str, dtype: torch.dtype | None) -> None:
    """All cases in one batch, and each case in a batch with an image without objects."""
    model = tiny_model(family=family).train()
    kinds = list(LEGAL.values())
    for instances in [kinds] if dtype is not None else [kinds, *([kind, LEGAL["none"]] for kind in kinds)]:
        check_finite(model, instances, dtype)


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_thousands_of_objects(family: str) -> None:
    """Many more objects than queries; the denoising queries make this test slow."""
    check_finite(tiny_model(family=family).train(), [many(2000), LEGAL["none"]], None)


def check_finite(model: nn.Module, instances: list[Instances], dtype: torch.dtype | None) -> None:
    check_samples(
        model, [{**s, "instances": i} for s, i in zip(batch([0] * len(instances)), instances, strict=True)], dtype
    )


def check_samples(model: nn.Module, samples: list[dict], dtype: torch.dtype | None = None) -> None:
    model.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        losses = model(samples)
    assert all(value.isfinite() for value in losses.values()), losses
    if dtype is not torch.float16:  # float16 gradients are finite only with the loss scale of the trainer
        sum(losses.values()).backward()
        broken = [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        assert broken == []


NUM_KEYPOINTS, MASK_STRIDE = 5, 4


def with_shapes(instances: Instances, mask: Tensor | bool = True, keypoints: Tensor | None = None) -> Instances:
    """Return a copy of instances, all of which have the same mask and keypoints.

    Args:
        instances: objects of one image.
        mask: (h, w) bool or a value for all pixels.
        keypoints: (P, 3) x, y, visibility; by default all are in the center of the box.
    """
    count, (height, width) = len(instances), instances.image_size
    result = Instances(instances.image_size, **instances.get_fields())
    size = (-(-height // MASK_STRIDE), -(-width // MASK_STRIDE))
    result.gt_masks = BitMasks(torch.as_tensor(mask).expand(count, *size).clone())
    boxes = instances.gt_boxes.tensor
    centers = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, torch.full((count, 1), 2.0)], dim=1)
    positions = centers[:, None] if keypoints is None else keypoints
    result.gt_keypoints = Keypoints(positions.expand(count, NUM_KEYPOINTS, 3).clone())
    return result


ONE_PIXEL = torch.arange(256).view(16, 16) == 37
UNLABELED = torch.zeros(NUM_KEYPOINTS, 3)
# Some of the keypoints are labeled.
PARTLY_LABELED = torch.tensor([[10.0, 10, 2], [0, 0, 0], [12, 12, 1], [0, 0, 0], [0, 0, 0]])
FAR_OUTSIDE = torch.tensor([[-1e4, 1e4, 2.0]])
LEGAL_SHAPES = {
    **{name: with_shapes(instances) for name, instances in LEGAL.items()},
    "a mask of one pixel": with_shapes(LEGAL["one pixel"], ONE_PIXEL),
    "a mask without pixels": with_shapes(LEGAL["one pixel"], False),
    "masks without pixels": with_shapes(LEGAL["more than queries"], False),
    "a mask of the whole image": with_shapes(LEGAL["as large as the image"]),
    "keypoints without labels": with_shapes(LEGAL["the same twice"], keypoints=UNLABELED),
    "no labels, more than queries": with_shapes(LEGAL["more than queries"], keypoints=UNLABELED),
    "a category without keypoints": with_shapes(LEGAL["the same in two classes"], keypoints=PARTLY_LABELED),
    "keypoints in the corner": with_shapes(LEGAL["one pixel"], keypoints=torch.tensor([[0.0, 0, 2]])),
    "keypoints far outside": with_shapes(LEGAL["one pixel"], keypoints=FAR_OUTSIDE),
}
# One of two classes has no keypoints.
LEGAL_SHAPES["a category without keypoints"].gt_keypoints.tensor[1] = 0


def shape_model(family: str) -> nn.Module:
    """Return a small model that predicts masks and keypoints, or poses."""
    if family == "ecpose":
        torch.manual_seed(0)
        return instantiate(recipe("ecpose_s_shapes", "model.decoder.queries.num_queries=20").model).train()
    model = recipe(FAMILIES[family], "model.decoder.queries.num_queries=20", "model.decoder.num_layers=2").model
    torch.manual_seed(0)
    return instantiate(with_keypoints(with_masks(model), NUM_KEYPOINTS)).train()


SHAPE_FAMILIES = long_except(["deimv2_lite", "ecpose"], [*FAMILIES, "ecpose"])


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", SHAPE_FAMILIES)
def test_losses_of_masks_and_keypoints_are_finite(family: str, dtype: torch.dtype | None) -> None:
    """All cases in one batch, and each case in a batch with an image without objects."""
    model, kinds = shape_model(family), list(LEGAL_SHAPES.values())
    for instances in [kinds] if dtype is not None else [kinds, *([kind, LEGAL_SHAPES["none"]] for kind in kinds)]:
        check_finite(model, instances, dtype)


@pytest.mark.long
@pytest.mark.parametrize("family", SHAPE_FAMILIES)
def test_thousands_of_masks_and_keypoints(family: str) -> None:
    check_finite(shape_model(family), [with_shapes(many(2000)), LEGAL_SHAPES["none"]], None)


# Coordinates of a polygon, a box or a keypoint in an image of at most 40 pixels: often outside of it, or on its border.
_coordinates = st.floats(-30, 70, width=32) | st.sampled_from([0.0, 1.0, 20.0, 40.0])
_polygons = st.lists(st.lists(_coordinates, min_size=6, max_size=10).map(lambda p: p[: len(p) // 2 * 2]), max_size=3)
_keypoints = st.lists(
    st.tuples(_coordinates, _coordinates, st.sampled_from([0, 1, 2])),
    min_size=NUM_KEYPOINTS,
    max_size=NUM_KEYPOINTS,
).map(lambda points: [value for point in points for value in point])
_annotations = st.fixed_dictionaries(
    {
        "bbox": st.tuples(*[st.floats(-10, 40, width=32)] * 2, *[st.floats(0.125, 60, width=32)] * 2).map(list),
        "bbox_mode": st.just(BoxMode.XYWH_ABS),
        "category_id": st.integers(0, 5),
        "iscrowd": st.sampled_from([0, 0, 0, 1]),
    },
    optional={"segmentation": _polygons, "keypoints": _keypoints},
)
_sides = st.integers(1, 40)
_images = st.tuples(
    st.tuples(_sides, _sides) | st.just((1, 1)), st.lists(_annotations, max_size=6), st.integers(0, 2**31)
)


def map_image(size: tuple[int, int], annotations: list[dict], seed: int) -> dict:
    """Return a training sample of a random image after a random crop, enlargement and flip."""
    rng = np.random.default_rng(seed)
    np.random.seed(seed)
    pixels = rng.integers(256, size=(*size, 3), dtype=np.uint8)
    mapper = DetectionMapper(
        [RandomZoomOut(prob=0.3), RandomIoUCrop(prob=0.7), RandomFlip(0.5)],
        is_train=True,
        read=lambda *_: pixels,
        masks=True,
        keypoints=True,
        mask_stride=MASK_STRIDE,
        keypoint_hflip_indices=[0, 1, 2, 4, 3],
    )
    return mapper({"file_name": "a.jpg", "height": size[0], "width": size[1], "annotations": annotations})


@pytest.mark.parametrize("family", SHAPE_FAMILIES)
def test_losses_are_finite_for_random_annotations(family: str) -> None:
    """Images of any size, padded to a batch; polygons, keypoints and boxes also outside of the image.

    There are at least two images, because batch normalization needs two values per channel.
    """
    model = shape_model(family)

    @fuzzed
    @given(st.lists(_images, min_size=2, max_size=3), st.sampled_from([None, None, torch.bfloat16, torch.float16]))
    def check(images: list, dtype: torch.dtype | None) -> None:
        samples = [map_image(*image) for image in images]
        for sample in samples:
            count, (height, width) = len(sample["instances"]), sample["instances"].image_size
            size = (-(-height // MASK_STRIDE), -(-width // MASK_STRIDE))
            assert sample["instances"].gt_masks.tensor.shape == (count, *size)
            assert sample["instances"].gt_keypoints.tensor.shape == (count, NUM_KEYPOINTS, 3)
        check_samples(model, samples, dtype)

    check()


@pytest.mark.parametrize("name", ["mal", "vfl", "focal"])
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=8),
    st.floats(0, 1, width=32),
    st.booleans(),
)
def test_extreme_logits(name: str, logits: list[float], quality: float, positive: bool) -> None:
    values = torch.tensor([logits]).requires_grad_()
    mask = torch.full((1, len(logits)), positive)
    overlap = torch.full((1, len(logits)), quality) * mask
    loss: Callable[..., Tensor] = {
        "mal": matchability_aware_loss,
        "vfl": varifocal_loss,
        "focal": lambda logits, positive, quality: focal_loss(logits, positive),
    }[name]
    total = loss(values, mask, overlap).sum()
    total.backward()
    assert math.isfinite(float(total))
    assert values.grad is not None
    assert values.grad.isfinite().all()
    assert float(total.detach()) >= 0
