"""Behavior of detectron2 and detrex, installed or bundled, that users rely on.

``test_differential.py`` compares the bundled subset with the real packages if these are installed. The expectations
here do not require them.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deim.fallback import is_standalone
from tests.ecosystem.calls import evaluate, list_calls

only_subset = pytest.mark.skipif(
    not (is_standalone("detectron2") and is_standalone("detrex")), reason="the real detectron2 or detrex is installed"
)


@only_subset
@pytest.mark.parametrize(("group", "call"), list_calls("unsupported"))
def test_unsupported_calls_are_errors(group: str, call: str) -> None:
    with pytest.raises((NotImplementedError, TypeError), match=r"bundled subset|unexpected keyword argument"):
        evaluate(group, call)


@pytest.mark.parametrize(
    ("box", "box_type"),
    [
        ([1, 2, 4, 8], list),
        ((1, 2, 4, 8), tuple),
        (np.array([[1, 2, 4, 8]]), np.ndarray),
        (torch.tensor([[1, 2, 4, 8]]), torch.Tensor),
    ],
)
def test_box_conversion_keeps_integers(box: Any, box_type: type) -> None:
    from detectron2.structures import BoxMode

    converted = BoxMode.convert(box, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    assert type(converted) is box_type
    numbers = np.asarray(converted)
    assert np.issubdtype(numbers.dtype, np.integer)
    assert numbers.flatten().tolist() == [1, 2, 5, 10]
    assert np.asarray(box).flatten().tolist() == [1, 2, 4, 8]


@pytest.mark.parametrize(
    "tensor",
    [
        np.array([[0.0, 0, 2, 3]]),
        torch.tensor([[0, 0, 2, 3]]),
        torch.tensor([[0.0, 0, 2, 3]], dtype=torch.float64),
        torch.tensor([[0.0, 0, 2, 3]], dtype=torch.float16),
    ],
)
def test_boxes_are_float32(tensor: Any) -> None:
    from detectron2.structures import Boxes

    assert Boxes(tensor).tensor.dtype == torch.float32


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_clipping_nonfinite_boxes_is_an_error(value: float) -> None:
    from detectron2.structures import Boxes

    boxes = Boxes([[0.0, 0, value, 1]])
    with pytest.raises(AssertionError):
        boxes.clip((4, 4))


def test_instances_of_different_image_sizes_cannot_be_concatenated() -> None:
    from detectron2.structures import Instances

    instances = Instances((4, 6), scores=torch.zeros(2))
    with pytest.raises(AssertionError):
        Instances.cat([instances, Instances((5, 6), scores=torch.zeros(1))])
    with pytest.raises(NotImplementedError):
        iter(instances)


@pytest.mark.parametrize(
    ("constraints", "size"),
    [({"square_size": 8}, (8, 8)), ({"size_divisibility": 8}, (8, 8)), ({"square_size": 0}, (5, 6)), ({}, (5, 6))],
)
def test_padding_constraints(constraints: dict, size: tuple) -> None:
    from detectron2.structures import ImageList

    batch = ImageList.from_tensors([torch.ones(3, 4, 6), torch.ones(3, 5, 2)], padding_constraints=constraints)
    assert batch.tensor.shape[-2:] == size
    converted = batch.to(torch.float64)
    assert converted.tensor.dtype == torch.float64
    assert converted.image_sizes == [(4, 6), (5, 2)]


def test_random_flip() -> None:
    from detectron2.data import transforms as T

    image = np.arange(24, dtype=np.uint8).reshape(4, 6)
    flip = T.RandomFlip(1.0, horizontal=False, vertical=True)
    assert np.array_equal(flip.get_transform(image).apply_image(image), image[::-1])
    assert repr(flip) == "RandomFlip(prob=1.0, horizontal=False, vertical=True)"
    with pytest.raises(ValueError):
        T.RandomFlip(vertical=True)


def test_resize_of_float_images() -> None:
    from detectron2.data import transforms as T

    image = np.arange(24, dtype=np.float32).reshape(4, 6)
    resized = T.Resize((8, 3)).get_transform(image).apply_image(image)
    assert resized.dtype == np.float32
    assert resized.shape == (8, 3)
    assert resized[0].tolist() == [0.5, 2.5, 4.5]


def test_coco_metadata_exists_without_annotation_file() -> None:
    from detectron2.data import MetadataCatalog

    metadata = MetadataCatalog.get("coco_2017_val")
    assert metadata.evaluator_type == "coco"
    assert (metadata.thing_classes[0], metadata.thing_classes[-1], len(metadata.thing_classes)) == (
        "person",
        "toothbrush",
        80,
    )
    assert metadata.thing_dataset_id_to_contiguous_id[90] == 79
    assert len(metadata.thing_dataset_id_to_contiguous_id) == 80
    assert metadata.thing_colors[0] == [220, 20, 60]
    assert len({tuple(color) for color in metadata.thing_colors}) > 70


def test_records_keep_masks_and_keypoints() -> None:
    loaded = evaluate("data", "load_records({'segmentation': POLYGON, 'keypoints': [1, 2, 2]})")
    annotation = next(record for record in loaded if record["annotations"])["annotations"][0]
    assert annotation["segmentation"] == [[1, 2, 8, 2, 8, 9.5]]
    assert annotation["keypoints"] == [1.5, 2.5, 2]


def test_malformed_exif_tags_are_ignored() -> None:
    calls = ("read_image(image_file('RGB', 6, malformed=True))", "read_image(image_file('RGB', 6))")
    malformed, expected = (evaluate("data", call) for call in calls)
    np.testing.assert_array_equal(malformed, expected)


def test_evaluator_can_be_reused() -> None:
    assert evaluate("evaluation", "is_evaluator_reusable()")


def test_dataset_from_list_copies_entries() -> None:
    from detectron2.data.common import DatasetFromList

    entries = [{"a": 1}]
    DatasetFromList(entries, serialize=False)[0]["a"] = 2
    assert entries == [{"a": 1}]


def test_max_detections_per_image() -> None:
    official = evaluate("evaluation", "evaluate(coco_dataset(), max_dets_per_image=5, use_fast_impl=False)")[0]["bbox"]
    fast = evaluate("evaluation", "evaluate(coco_dataset(), max_dets_per_image=5)")[0]["bbox"]
    unlimited = evaluate("evaluation", "evaluate(coco_dataset())")[0]["bbox"]
    assert official == pytest.approx(fast, nan_ok=True)
    assert official["AP"] != unlimited["AP"]


def test_masks_and_keypoints_have_the_same_ap_with_both_coco_apis() -> None:
    call = "evaluate(coco_dataset(keypoints=17), change=add_masks_and_keypoints"
    fast, official = (evaluate("evaluation", f"{call}{option})")[0] for option in ("", ", use_fast_impl=False"))
    assert list(fast) == list(official) == ["bbox", "keypoints", "segm"]
    metrics = ["AP", "AP50", "AP75", "APm", "APl", "AP-cat", "AP-dog", "AP-bird"]
    assert list(fast["keypoints"]) == metrics
    assert list(fast["segm"]) == [*metrics[:3], "APs", *metrics[3:]]
    for task in fast:
        assert fast[task] == pytest.approx(official[task], abs=1e-6, nan_ok=True)
    assert 0 < fast["segm"]["AP"] < fast["bbox"]["AP"]
    assert fast["keypoints"]["AP50"] > 0


@only_subset  # detectron2's evaluator requires keypoints of every object
@pytest.mark.parametrize("option", ["", ", use_fast_impl=False"], ids=["fast", "official"])
def test_keypoints_of_classes_without_objects_or_keypoints(option: str) -> None:
    """A class without objects has no AP; objects may lack the keypoints or their number."""
    call = f"change=add_keypoints(17){option})[0]['keypoints']"
    expected = evaluate("evaluation", f"evaluate(coco_dataset(keypoints=17), {call}")
    more = "classes=('cat', 'dog', 'bird', 'cow'), used_classes=3"
    results = evaluate("evaluation", f"evaluate(coco_dataset(keypoints=17, {more}), {call}")
    assert math.isnan(results.pop("AP-cow"))
    assert results == pytest.approx(expected, nan_ok=True)
    # Every seventh object, and the first one, has no labeled keypoints.
    results = evaluate("evaluation", f"evaluate(coco_dataset(keypoints=17, only_labeled_keypoints=True), {call}")
    assert results == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(("mode", "saved"), [("max", [1, 5]), ("min", [1, 3])])
def test_best_checkpointer(mode: str, saved: list[int]) -> None:
    calls = evaluate("engine", f"best_checkpoints({{1: 2.0, 3: 1.0, 5: 3.0}}, mode={mode!r})")[0]
    assert calls == [("model_best", {"iteration": iteration}) for iteration in saved]


@pytest.mark.parametrize(
    ("period", "stop", "iterations"), [(2, 4, [1, 4]), (2, 5, [1, 3, 5]), (0, 3, [3]), (9, 3, [3])]
)
def test_eval_hook_iterations(period: int, stop: int, iterations: list[int]) -> None:
    assert evaluate("engine", f"run_eval_hook({{'a': 1.0}}, {stop}, {period})")[0] == iterations


def test_max_to_keep() -> None:
    files, last_checkpoint = evaluate("engine", "checkpoint_files(1, 5, max_to_keep=2)")
    assert [name for name in files if name.startswith("model")] == [
        "model_0000003.pth",
        "model_0000004.pth",
        "model_final.pth",
    ]
    assert last_checkpoint == "model_final.pth"


def test_parameter_order_of_swin() -> None:
    from detectron2.modeling.backbone import SwinTransformer

    names = [
        n for n, _ in SwinTransformer(embed_dim=12, depths=(1,), num_heads=(1,), out_indices=(0,)).named_parameters()
    ]
    submodules = [name.split(".")[4] for name in names if name.startswith("layers.0.blocks.0")]
    assert list(dict.fromkeys(submodules)) == ["norm1", "attn", "norm2", "mlp"]


def test_config_with_missing_value_is_not_saved(tmp_path: Path) -> None:
    from detectron2.config import LazyConfig
    from omegaconf import MissingMandatoryValue, OmegaConf

    with pytest.raises(MissingMandatoryValue):
        LazyConfig.save(OmegaConf.create({"a": "???"}), str(tmp_path / "c.yaml"))


def test_ema_must_be_built_exactly_once() -> None:
    from detrex.modeling import ema

    with pytest.raises(AssertionError):
        ema.get_model_ema_state(nn.Linear(1, 1))
    with pytest.raises(AssertionError):
        evaluate("detrex", "build_ema_twice()")
