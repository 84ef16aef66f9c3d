"""Images with more objects than the model detects or the evaluation counts."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from omegaconf import OmegaConf

from deim.config import load_config
from deim.data.limits import DetectionLimits, describe_counts, limit_warnings
from deim.data.records import CompactRecords
from deim.engine.evaluation import check_limits

COUNTS = [3, 450, 120, 0]


def test_describe_counts() -> None:
    assert describe_counts([1] * 99 + [300]) == "mean 3.99, 99th percentile 4, maximum 300"
    assert describe_counts([]) == "no images"


@pytest.mark.parametrize(
    ("split", "limits", "words"),
    [
        ("train", DetectionLimits(300, 300, None), [["1 train images have more objects (up to 450)", "num_queries"]]),
        ("train", DetectionLimits(500, 300, None), []),
        ("train", DetectionLimits(None, None, None), []),
        (
            "test",
            DetectionLimits(500, 300, 300),
            [
                ["450 objects", "num_detections", "select_box_nums_for_evaluation"],
                ["300 detections", "max_dets_per_image"],
            ],
        ),
        ("test", DetectionLimits(500, 500, None), [["100 detections", "max_dets_per_image"]]),
        ("test", DetectionLimits(500, 500, 500), []),
    ],
)
def test_limit_warnings_name_their_keys(split: str, limits: DetectionLimits, words: list[list[str]]) -> None:
    warnings = limit_warnings(COUNTS, limits, split)
    assert len(warnings) == len(words)
    for sentence, expected in zip(warnings, words, strict=True):
        assert all(word in sentence for word in expected), sentence


def test_limits_from_config() -> None:
    assert DetectionLimits.from_config(load_config("deim_dfine/deim_dfine_s_coco")) == DetectionLimits(300, 300, None)
    detrex = OmegaConf.create({"model": {"num_queries": 900, "select_box_nums_for_evaluation": 300}, "dataloader": {}})
    assert DetectionLimits.from_config(detrex) == DetectionLimits(900, 300, None)


@pytest.mark.parametrize(
    ("largest", "overrides", "max_dets"),
    [
        (100, [], None),
        (101, [], 300),
        (450, ["model.num_detections=500"], 500),
        (450, ["+dataloader.evaluator.max_dets_per_image=200"], 200),
    ],
)
def test_max_dets_is_raised_for_crowded_images(
    largest: int, overrides: list[str], max_dets: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = load_config("deim_dfine/deim_dfine_s_coco", overrides)
    with caplog.at_level(logging.INFO, logger="detectron2.deim"):
        check_limits(cfg, SimpleNamespace(objects_per_image=[2, largest]), "test")
    assert cfg.dataloader.evaluator.get("max_dets_per_image") == max_dets
    warnings = [message for message in caplog.messages if "detections per image instead of" in message]
    assert len(warnings) == int(max_dets not in (None, 200))
    assert any("model.decoder.queries.num_queries" in message for message in caplog.messages) == (largest > 300)


def test_objects_per_image() -> None:
    counts = (2, 0, 5)
    box = {"bbox": [0, 0, 4, 4], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    records = CompactRecords([{"file_name": str(count), "annotations": [box] * count} for count in counts])
    assert np.array_equal(records.objects_per_image, [2, 0, 5])


def test_ap_of_crowded_images_depends_on_max_dets(tmp_path: Path) -> None:
    """All 150 objects are detected; 100 evaluated detections leave out a third of them."""
    corners = torch.cartesian_prod(torch.arange(15.0), torch.arange(10.0)) * 20
    objects = [
        {"id": number, "image_id": 1, "category_id": 1, "bbox": [x, y, 10.0, 10.0], "area": 100.0, "iscrowd": 0}
        for number, (x, y) in enumerate(corners.tolist(), 1)
    ]
    content = {"images": [{"id": 1, "file_name": "a.jpg", "width": 400, "height": 400}], "annotations": objects}
    path = tmp_path / "crowded.json"
    path.write_text(json.dumps(content | {"categories": [{"id": 1, "name": "a"}]}), encoding="utf-8")
    register_coco_instances(name := f"crowded_{tmp_path.name}", {}, str(path), str(tmp_path))
    DatasetCatalog.get(name)
    detections = Instances((400, 400), pred_boxes=Boxes(torch.cat([corners, corners + 10], dim=1)))
    detections.scores, detections.pred_classes = torch.linspace(1, 0.5, 150), torch.zeros(150, dtype=torch.long)
    for max_dets, expected in ((None, 66.3), (300, 100.0)):
        evaluator = COCOEvaluator(name, max_dets_per_image=max_dets)
        evaluator.reset()
        evaluator.process([{"image_id": 1}], [{"instances": detections}])
        assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(expected, abs=0.1)
