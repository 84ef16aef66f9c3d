"""``deim view``: data, detections and mistakes in FiftyOne's format."""

import base64
import io
import json
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks

from deim.analysis import ImageResult
from deim.cli import main
from deim.data.datasets.shapes import write_shapes
from deim.errors import ConfigError
from deim.reporting.dataset_view import open_fiftyone
from deim.reporting.fiftyone_dataset import FiftyoneImage, write_fiftyone
from deim.reporting.fiftyone_shapes import box_mask
from deim.structures.skeleton import Skeleton

CLASSES = ["cat", "dog"]


def image(folder: Path, name: str = "1.png", has_detections: bool = True) -> FiftyoneImage:
    """Return an image of 50 x 100 pixels with two objects, a crowd, and a correct, a wrong and an ignored detection."""
    path = folder / name
    Image.new("RGB", (100, 50)).save(path)
    boxes = np.array([[10, 10, 30, 30], [60, 0, 90, 20], [52, 31, 60, 45]], np.float32)
    result = ImageResult(
        str(path),
        gt_boxes=np.array([[10, 10, 30, 30], [0, 0, 5, 5]], np.float32),
        gt_classes=np.array([1, 0]),
        crowd_boxes=np.array([[50, 30, 70, 50]], np.float32),
        crowd_classes=np.array([0]),
        boxes=boxes if has_detections else boxes[:0],
        scores=np.array([0.9, 0.8, 0.7], np.float32)[: len(boxes) if has_detections else 0],
        classes=np.array([1, 0, 0])[: len(boxes) if has_detections else 0],
    )
    return FiftyoneImage(result, (50, 100), ["val"], has_detections)


def read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    return metadata, json.loads((folder / "samples.json").read_text(encoding="utf-8"))["samples"]


def test_mistakes_are_marked(tmp_path: Path) -> None:
    write_fiftyone(tmp_path / "out", "mine", [image(tmp_path)], CLASSES)
    metadata, (sample,) = read(tmp_path / "out")
    assert metadata["default_classes"] == CLASSES
    assert (sample["filepath"], sample["tags"]) == (str(tmp_path / "1.png"), ["val"])
    truth, predictions = sample["ground_truth"]["detections"], sample["predictions"]["detections"]
    assert [(label["label"], label.get("eval"), label.get("iscrowd")) for label in truth] == [
        ("dog", "tp", None),
        ("cat", "fn", None),
        ("cat", None, True),
    ]
    assert [(label.get("eval"), label.get("error")) for label in predictions] == [
        ("tp", None),
        ("fp", "background"),
        (None, None),
    ]
    assert predictions[0]["bounding_box"] == [0.1, 0.2, 0.2, 0.4]
    assert predictions[0]["confidence"] == pytest.approx(0.9)
    assert (predictions[0]["eval_id"], truth[0]["eval_id"]) == (truth[0]["_id"]["$oid"], predictions[0]["_id"]["$oid"])
    assert [sample[f"eval_{kind}"] for kind in ("tp", "fp", "fn")] == [1, 1, 1]


def with_shapes(plain: FiftyoneImage) -> FiftyoneImage:
    """Add masks and keypoints to the objects and detections of an image."""
    square = np.zeros((50, 100), bool)
    square[10:20, 10:30] = True
    encoded = [coco_masks.encode(np.asfortranarray(square.astype(np.uint8)))] * 3
    points = np.array([[[10, 25, 2], [0, 0, 0]], [[5, 5, 1], [50, 25, 1]]], float)
    scored = np.array([[[20, 10, 0.9], [30, 40, 0.2]]] * 3)
    polygon = [[0.0, 0.0, 5.0, 0.0, 5.0, 5.0, 0.0, 5.0]]
    result = replace(plain.result, gt_masks=[square, polygon], masks=encoded, gt_keypoints=points, keypoints=scored)
    return replace(plain, result=result)


SKELETON = Skeleton(("head", "tail"), ((0, 1),))


def test_masks_and_keypoints_are_written(tmp_path: Path) -> None:
    write_fiftyone(tmp_path / "out", "mine", [with_shapes(image(tmp_path))], CLASSES, SKELETON)
    metadata, (sample,) = read(tmp_path / "out")
    assert metadata["default_skeleton"]["labels"] == ["head", "tail"]
    assert metadata["default_skeleton"]["edges"] == [[0, 1]]
    truth, predictions = sample["ground_truth"]["detections"], sample["predictions"]["detections"]
    # The upper half of the box is inside of the mask.
    half = np.repeat([[True], [False]], 10, axis=0) & np.ones((1, 20), bool)
    assert (pixels(truth[0]["mask"]) == half).all()
    assert (pixels(predictions[0]["mask"]) == half).all()
    assert pixels(truth[1]["mask"]).all()
    assert pixels(truth[1]["mask"]).shape == (5, 5)
    assert not pixels(predictions[1]["mask"]).any()
    assert "mask" not in truth[2], "a crowd has no mask"
    first, second = sample["ground_truth_keypoints"]["keypoints"]
    assert (first["label"], first["points"]) == ("dog", [[0.1, 0.5], [{"$numberDouble": "NaN"}] * 2])
    assert second["points"] == [[0.05, 0.1], [0.5, 0.5]]
    detected = sample["predictions_keypoints"]["keypoints"][0]
    assert (detected["points"], detected["confidence"]) == ([[0.2, 0.2], [0.3, 0.8]], [0.9, 0.2])


def pixels(value: dict[str, Any]) -> np.ndarray:
    stream = io.BytesIO(zlib.decompress(base64.b64decode(value["$binary"]["base64"])))
    return np.load(stream)


def test_box_outside_of_the_image_has_the_mask_of_its_border() -> None:
    whole = np.ones((50, 100), bool)
    value = box_mask(whole, [-4.0, 40.0, 6.0, 60.0], (50, 100))
    assert value is not None
    assert pixels(value).shape == (20, 10)
    assert box_mask(whole, [5.0, 5.0, 5.0, 9.0], (50, 100)) is None


def test_every_value_has_a_field(tmp_path: Path) -> None:
    write_fiftyone(tmp_path / "out", "mine", [with_shapes(image(tmp_path))], CLASSES, SKELETON)
    metadata, (sample,) = read(tmp_path / "out")
    fields = {field["db_field"]: field for field in metadata["sample_fields"]}
    assert sample.keys() <= fields.keys()
    for name in ("ground_truth", "predictions", "ground_truth_keypoints", "predictions_keypoints"):
        label_fields = {field["db_field"] for field in fields[name]["fields"][0]["fields"]}
        for label in sample[name]["keypoints" if "keypoints" in name else "detections"]:
            assert label.keys() - {"_cls", "attributes"} <= label_fields


def test_image_of_two_splits_has_two_identifiers(tmp_path: Path) -> None:
    twice = [replace(with_shapes(image(tmp_path)), tags=[split]) for split in ("train", "test")]
    write_fiftyone(tmp_path / "out", "mine", twice, CLASSES, SKELETON)
    _, samples = read(tmp_path / "out")
    assert [sample["filepath"] for sample in samples] == [str(tmp_path / "1.png")] * 2
    names = ("ground_truth", "predictions", "ground_truth_keypoints", "predictions_keypoints")
    documents = [
        *samples,
        *(
            label
            for sample in samples
            for name in names
            for label in sample[name]["keypoints" if "keypoints" in name else "detections"]
        ),
    ]
    assert len({document["_id"]["$oid"] for document in documents}) == len(documents)


def test_dataset_is_written_by_path(tmp_path: Path) -> None:
    list(write_shapes(tmp_path / "shapes", train_images=3, val_images=2, size=96))
    assert main(["view", str(tmp_path / "shapes"), "--to", "fiftyone", str(tmp_path / "out")]) == 0
    metadata, samples = read(tmp_path / "out")
    assert [sample["tags"] for sample in samples] == [["train"]] * 3 + [["test"]] * 2
    assert "predictions" not in {field["name"] for field in metadata["sample_fields"]}
    assert all(Path(sample["filepath"]).is_file() for sample in samples)
    boxes = np.array([label["bounding_box"] for sample in samples for label in sample["ground_truth"]["detections"]])
    assert len(boxes)
    assert ((boxes >= 0) & (boxes <= 1)).all()


def test_other_formats_and_missing_sources_are_errors(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["view", str(tmp_path), "--to", "coco", "out"]) == 2
    assert "the only format is fiftyone" in capsys.readouterr().err
    assert main(["view", str(tmp_path / "nothing"), "--to", "fiftyone", "out"]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_missing_extra_is_named(tmp_path: Path) -> None:
    with (
        mock.patch.dict(sys.modules, fiftyone=None),
        pytest.raises(ConfigError, match=r"pip install 'deim\[fiftyone\]'"),
    ):
        open_fiftyone(tmp_path, "mine")


def test_fiftyone_loads_the_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FiftyOne itself imports the folder, with a database in memory in place of MongoDB."""
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "1")
    mongomock = pytest.importorskip("mongomock", reason="needs mongomock")
    fiftyone = pytest.importorskip("fiftyone", reason="needs fiftyone")
    import mongoengine
    from fiftyone.core.odm import database

    client = mongomock.MongoClient()
    monkeypatch.setattr(database, "_client", client)
    monkeypatch.setattr(database, "_connect", lambda: None)
    mongoengine.disconnect_all()
    mongoengine.connect("fiftyone", mongo_client_class=lambda *_, **__: client, host="mongodb://localhost")
    images = [with_shapes(image(tmp_path)), image(tmp_path, "2.png", False)]
    write_fiftyone(tmp_path / "out", "mine", images, CLASSES, SKELETON)
    dataset = fiftyone.Dataset.from_dir(str(tmp_path / "out"), fiftyone.types.FiftyOneDataset, name="mine")
    first, second = dataset
    assert dataset.default_classes == CLASSES
    assert [label.eval for label in first.ground_truth.detections[:2]] == ["tp", "fn"]
    assert [(label.label, label.confidence) for label in first.predictions.detections] == [
        ("dog", pytest.approx(0.9)),
        ("cat", pytest.approx(0.8)),
        ("cat", pytest.approx(0.7)),
    ]
    assert first.predictions.detections[0].mask.shape == (20, 20)
    assert first.predictions.detections[0].mask[:10].all()
    assert first.ground_truth_keypoints.keypoints[1].points == [[0.05, 0.1], [0.5, 0.5]]
    assert np.isnan(first.ground_truth_keypoints.keypoints[0].points[1]).all()
    assert dataset.default_skeleton.labels == ["head", "tail"]
    assert (first.eval_tp, first.eval_fn, second.eval_tp, second.predictions) == (1, 1, None, None)
    assert {"eval", "error", "eval_iou"} <= set(dataset.get_field_schema(flat=True)) | {
        name.rpartition(".")[2] for name in dataset.get_field_schema(flat=True)
    }
