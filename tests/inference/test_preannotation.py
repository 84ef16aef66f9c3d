"""Detections for annotation tools: files for Label Studio and CVAT, read back by other parsers."""

import importlib
import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco_masks

from deim.data.datasets.formats.cvat import cvat_dataset
from deim.errors import ConfigError
from deim.inference.detections import Detections
from deim.inference.label_studio import encode_brush
from deim.inference.writers import open_writers
from deim.structures.skeleton import Skeleton

CLASSES = ["cat", "dog & <bone>"]
SKELETON = Skeleton(("head", "tail"), ((0, 1),))


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Return two images in different folders, with a space in a name."""
    files = [tmp_path / "in/a/cat 1.png", tmp_path / "in/b/2.png"]
    for file in files:
        file.parent.mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(file)
    return files


def detections_in(file: Path | None, seed: int = 0, masks: bool = False, keypoints: bool = False) -> Detections:
    """Return two detections in an image of 30 x 40 pixels."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(2, 2, generator=generator) * 12
    boxes = torch.cat([corners, corners + 2 + torch.rand(2, 2, generator=generator) * 14], dim=1)
    fields = {"pred_boxes": Boxes(boxes), "scores": torch.tensor([0.9, 0.5]), "pred_classes": torch.tensor([1, 0])}
    if masks:
        fields["pred_masks"] = torch.rand(2, 30, 40, generator=generator) > 0.7
    if keypoints:
        positions = torch.rand(2, 2, 2, generator=generator) * 30
        fields["pred_keypoints"] = torch.cat([positions, torch.tensor([0.9, 0.5])[:, None, None].expand(2, 2, 1)], -1)
    image = np.zeros((30, 40, 3), np.uint8)
    return Detections.from_instances(
        Instances((30, 40), **fields),
        CLASSES,
        image,
        None if file is None else str(file),
        SKELETON if keypoints else None,
    )


def write(kind: str, folder: Path, detections: list[Detections]) -> Path:
    (writer,) = open_writers([kind], folder, CLASSES)
    for number, entry in enumerate(detections):
        writer.add(entry, f"image_{number}")
    writer.close()
    return folder


def assert_masks_equal(segmentation: dict | list, mask: torch.Tensor) -> None:
    assert isinstance(segmentation, dict)
    assert np.array_equal(coco_masks.decode(segmentation).astype(bool), mask.numpy())


@pytest.mark.parametrize("masks", [False, True])
def test_cvat_is_read_back_as_a_dataset(images: list[Path], tmp_path: Path, masks: bool) -> None:
    expected = [detections_in(file, seed, masks) for seed, file in enumerate(images)]
    out = write("cvat", tmp_path / "out", expected)
    records = cvat_dataset(
        f"cvat_round_trip_{masks}", str(out / "cvat.xml"), str(images[0].parents[1]), CLASSES, masks=masks
    )
    assert [Path(record["file_name"]) for record in records] == images
    for record, detections in zip(records, expected, strict=True):
        assert [entry["category_id"] for entry in record["annotations"]] == [1, 0]
        for index, entry in enumerate(record["annotations"]):
            if masks:
                assert_masks_equal(entry["segmentation"], detections.masks[index])
            else:
                assert entry["bbox_mode"] == BoxMode.XYXY_ABS
                assert entry["bbox"] == pytest.approx(detections.boxes[index].tolist(), abs=0.011)


def test_cvat_file_has_labels_and_scores(images: list[Path], tmp_path: Path) -> None:
    out = write("cvat", tmp_path / "out", [detections_in(file) for file in images])
    root = ET.parse(out / "cvat.xml").getroot()
    assert root.findtext("version") == "1.1"
    assert [label.findtext("name") for label in root.iterfind("meta/task/labels/label")] == CLASSES
    assert [image.get("name") for image in root.iter("image")] == ["a/cat 1.png", "b/2.png"]
    assert [value.text for value in root.find("image").iter("attribute")] == ["0.9000", "0.5000"]
    labels = json.loads((out / "cvat_labels.json").read_text(encoding="utf-8"))
    assert [(label["name"], label["type"]) for label in labels] == [(name, "rectangle") for name in CLASSES]


def test_cvat_skeletons_have_the_keypoints(images: list[Path], tmp_path: Path) -> None:
    expected = detections_in(images[0], masks=True, keypoints=True)
    out = write("cvat", tmp_path / "out", [expected])
    root = ET.parse(out / "cvat.xml").getroot()
    for skeleton, keypoints in zip(root.iter("skeleton"), expected.keypoints.numpy(), strict=True):
        assert [point.get("label") for point in skeleton.iterfind("points")] == list(SKELETON.names)
        positions = [[float(value) for value in p.get("points").split(",")] for p in skeleton.iterfind("points")]
        assert np.array(positions) == pytest.approx(keypoints[:, :2], abs=0.006)
    parents = [label.findtext("parent") for label in root.iterfind("meta/task/labels/label")]
    assert parents == [None, CLASSES[0], CLASSES[0], None, CLASSES[1], CLASSES[1]]
    label = json.loads((out / "cvat_labels.json").read_text(encoding="utf-8"))[0]
    drawing = ET.fromstring(f"<svg>{label['svg']}</svg>")
    assert label["type"] == "skeleton"
    assert [node.get("data-label-name") for node in drawing.iter("circle")] == list(SKELETON.names)
    assert [(line.get("data-node-from"), line.get("data-node-to")) for line in drawing.iter("line")] == [("1", "2")]


def test_empty_mask_is_a_box(images: list[Path], tmp_path: Path) -> None:
    detections = detections_in(images[0], masks=True)
    detections.pred_masks[0] = False
    out = write("cvat", tmp_path / "out", [detections])
    assert [shape.tag for shape in ET.parse(out / "cvat.xml").getroot().find("image")] == ["box", "mask"]


def test_images_without_a_file_are_written(tmp_path: Path) -> None:
    for kind in ("cvat", "labelstudio"):
        out = write(kind, tmp_path / kind, [detections_in(None)])
        assert Image.open(out / "frames" / "image_0.jpg").size == (40, 30)


def test_downloaded_images_are_written(tmp_path: Path) -> None:
    detections = detections_in(None)
    detections._file_name = "https://example.com/photos/cat.jpg"
    out = write("cvat", tmp_path / "cvat", [detections])
    assert ET.parse(out / "cvat.xml").getroot().find("image").get("name") == "image_0.jpg"
    out = write("labelstudio", tmp_path / "labelstudio", [detections])
    (task,) = json.loads((out / "label_studio.json").read_text(encoding="utf-8"))
    assert task["data"]["image"].endswith("/frames/image_0.jpg")
    assert (out / "frames" / "image_0.jpg").is_file()


def test_no_images(tmp_path: Path) -> None:
    assert json.loads((write("labelstudio", tmp_path, []) / "label_studio.json").read_text(encoding="utf-8")) == []
    assert ET.parse(write("cvat", tmp_path, []) / "cvat.xml").getroot().find("image") is None


def test_label_studio_boxes_and_keypoints(images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT", str(tmp_path))
    expected = detections_in(images[0], keypoints=True)
    out = write("labelstudio", tmp_path / "out", [expected])
    (task,) = json.loads((out / "label_studio.json").read_text(encoding="utf-8"))
    url = urlsplit(task["data"]["image"])
    assert (url.path, parse_qs(url.query)["d"]) == ("/data/local-files/", ["in/a/cat 1.png"])
    (prediction,) = task["predictions"]
    assert prediction["score"] == pytest.approx(0.7)
    objects = [region for region in prediction["result"] if region["type"] == "rectanglelabels"]
    points = [region for region in prediction["result"] if region["type"] == "keypointlabels"]
    controls = {element.get("name") for element in ET.parse(out / "label_studio.xml").iter() if element.get("toName")}
    assert {region["from_name"] for region in prediction["result"]} == controls
    for index, region in enumerate(objects):
        value = region["value"]
        assert value["rectanglelabels"] == [expected.labels[index]]
        assert region["score"] == pytest.approx(float(expected.scores[index]))
        x, y = value["x"] * 0.4, value["y"] * 0.3
        corners = [x, y, x + value["width"] * 0.4, y + value["height"] * 0.3]
        assert corners == pytest.approx(expected.boxes[index].tolist(), abs=1e-5)
        own = [point for point in points if point["parentID"] == region["id"]]
        assert [point["value"]["keypointlabels"] for point in own] == [[name] for name in SKELETON.names]
        positions = np.array([[point["value"]["x"] * 0.4, point["value"]["y"] * 0.3] for point in own])
        assert positions == pytest.approx(expected.keypoints[index, :, :2].numpy(), abs=1e-5)


def test_image_that_label_studio_cannot_serve(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT", str(tmp_path / "other"))
    with pytest.raises(ConfigError, match="is not below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"):
        write("labelstudio", tmp_path / "out", [detections_in(images[0])])


def decode_brush(counts: list[int]) -> np.ndarray:
    """Decode Label Studio's run-length encoding as its editor does (``decode`` of the package rle-pack)."""
    text, position = "".join(f"{byte:08b}" for byte in counts), 0

    def read(bits: int) -> int:
        nonlocal position
        position += bits
        return int(text[position - bits : position], 2)

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        is_run = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if is_run else [read(word) for _ in range(length)]
    return np.array(values, np.uint8)


@settings(max_examples=40, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_brush_encoding_is_exact(mask: np.ndarray) -> None:
    assert np.array_equal(
        decode_brush(encode_brush(mask)).reshape(*mask.shape, 4), np.repeat(mask[..., None], 4, 2) * 255
    )


def test_brush_encoding_splits_long_runs() -> None:
    mask = np.zeros((300, 400), bool)
    mask[100:250] = True
    assert np.array_equal(decode_brush(encode_brush(mask)).reshape(300, 400, 4)[..., 3] > 0, mask)


def test_label_studio_masks(images: list[Path], tmp_path: Path) -> None:
    expected = detections_in(images[0], masks=True)
    out = write("labelstudio", tmp_path / "out", [expected])
    (task,) = json.loads((out / "label_studio.json").read_text(encoding="utf-8"))
    for region, mask in zip(task["predictions"][0]["result"], expected.masks.numpy(), strict=True):
        assert region["type"] == "brushlabels"
        assert np.array_equal(decode_brush(region["value"]["rle"]).reshape(30, 40, 4)[..., 3] > 0, mask)


@pytest.mark.parametrize("masks", [False, True])
def test_converter_of_label_studio_reads_the_tasks(images: list[Path], tmp_path: Path, masks: bool) -> None:
    """Accepted predictions, exported by Label Studio's own converter, are the detections."""
    converter = pytest.importorskip("label_studio_sdk.converter", reason="needs label-studio-sdk")
    expected = detections_in(images[0], masks=masks)
    out = write("labelstudio", tmp_path / "out", [expected])
    (task,) = json.loads((out / "label_studio.json").read_text(encoding="utf-8"))
    task = {"id": 1, "data": task["data"], "annotations": [{"id": 1, "result": task["predictions"][0]["result"]}]}
    (tmp_path / "tasks.json").write_text(json.dumps([task]), encoding="utf-8")
    export = converter.Converter(
        (out / "label_studio.xml").read_text(encoding="utf-8"), str(tmp_path), download_resources=False
    )
    if masks:
        brush = importlib.import_module("label_studio_sdk.converter.brush")
        for region, mask in zip(task["annotations"][0]["result"], expected.masks.numpy(), strict=True):
            assert np.array_equal(brush.decode_rle(region["value"]["rle"]).reshape(30, 40, 4)[..., 3] > 0, mask)
        return
    export.convert_to_coco(str(tmp_path / "tasks.json"), str(tmp_path / "coco"), is_dir=False)
    content = json.loads((tmp_path / "coco" / "result.json").read_text(encoding="utf-8"))
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    assert [names[entry["category_id"]] for entry in content["annotations"]] == expected.labels
    for entry, box in zip(content["annotations"], expected.boxes.tolist(), strict=True):
        x, y, width, height = entry["bbox"]
        assert [x, y, x + width, y + height] == pytest.approx(box, abs=1e-4)


@pytest.mark.parametrize("masks", [False, True])
def test_datumaro_reads_cvat(images: list[Path], tmp_path: Path, masks: bool) -> None:
    datumaro = pytest.importorskip("datumaro", reason="needs datumaro")
    expected = detections_in(images[0], masks=masks)
    out = write("cvat", tmp_path / "out", [expected])
    (out / "images").mkdir()
    shutil.copy(images[0], out / "images")
    (item,) = datumaro.Dataset.import_from(str(out / "cvat.xml"), "cvat")
    for index, annotation in enumerate(item.annotations):
        assert annotation.label == int(expected.pred_classes[index])
        if masks:
            assert np.array_equal(annotation.image.astype(bool), expected.masks[index].numpy())
        else:
            assert annotation.points == pytest.approx(expected.boxes[index].tolist(), abs=0.011)
    assert len(item.annotations) == 2
