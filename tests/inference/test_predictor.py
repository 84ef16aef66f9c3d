"""Predictor: accepted image types, order of results, and agreement with the model."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Instances
from PIL import Image

from deim import Predictor
from deim.checkpoint.loading import load_for_inference
from deim.data.datasets.shapes import CLASSES
from deim.data.image import read_image
from deim.errors import CheckpointError, ConfigError, DatasetError, DeimError
from tests.inference.conftest import checkpoint_recipe


@pytest.fixture(scope="module")
def predictor(checkpoint: Path) -> Predictor:
    return Predictor(checkpoint, threshold=0.0, device="cpu")


def are_close(a: Instances, b: Instances, tolerance: float = 1e-4) -> bool:
    """Return whether the detections are equal up to rounding, which may also swap detections with nearly equal scores."""
    if len(a) != len(b):
        return False
    is_next_close = a.scores.diff().abs() < 1e-5
    is_tied = torch.zeros(len(a), dtype=torch.bool)
    is_tied[1:] |= is_next_close
    is_tied[:-1] |= is_next_close
    return (
        a.image_size == b.image_size
        and bool(((a.pred_classes == b.pred_classes) | is_tied).all())
        and torch.allclose(a.scores, b.scores, atol=tolerance)
        and torch.allclose(a.pred_boxes.tensor, b.pred_boxes.tensor, atol=tolerance * max(a.image_size))
    )


def test_predictor_matches_model(predictor: Predictor, checkpoint: Path, photos: Path) -> None:
    detections = predictor(photos / "0.png")
    assert predictor.class_names == list(CLASSES)
    assert detections.file_name == str(photos / "0.png")
    cfg = checkpoint_recipe()
    model = instantiate(cfg.model).eval()
    load_for_inference(model, str(checkpoint))
    mapper = instantiate(cfg.dataloader.test.mapper)
    with torch.no_grad():
        (expected,) = model([mapper({"file_name": str(photos / "0.png")})])
    assert are_close(detections, expected["instances"])
    assert len(detections) == len(expected["instances"]) > 0


def test_image_types_and_order(predictor: Predictor, photos: Path) -> None:
    files = sorted(photos.iterdir())
    arrays = [read_image(str(file)) for file in files]
    expected = [predictor(file) for file in files]
    inputs = {
        "folder": photos,
        "pattern": str(photos / "*.png"),
        "paths": [str(file) for file in files],
        "arrays": arrays,
        "tensors": [torch.from_numpy(array).permute(2, 0, 1) for array in arrays],
        "PIL": [Image.open(file) for file in files],
        "mixed": [files[0], arrays[1], Image.open(files[2]), str(files[3]), arrays[4]],
        "generator": (file for file in files),
    }
    for name, images in inputs.items():
        detections = predictor.predict(images, batch_size=2)
        assert len(detections) == len(expected), name
        assert all(are_close(a, b) for a, b in zip(detections, expected, strict=True)), name
    from_bgr = predictor.predict([array[..., ::-1] for array in arrays], channels="BGR")
    assert all(are_close(a, b) for a, b in zip(from_bgr, expected, strict=True))
    stacked = predictor.predict(np.stack([arrays[2], arrays[2]]))
    assert len(stacked) == 2
    assert are_close(stacked[1], expected[2])


def test_threshold_and_class_filter(checkpoint: Path, predictor: Predictor, photos: Path) -> None:
    all_detections = predictor(photos / "0.png")
    threshold = float(all_detections.scores.median())
    detections = Predictor(checkpoint, threshold=threshold, device="cpu")(photos / "0.png")
    assert 0 < len(detections) < len(all_detections)
    assert (detections.scores >= threshold).all()
    name = all_detections.labels[0]
    assert set(all_detections.filter_classes([name]).labels) == {name}
    with pytest.warns(DeprecationWarning, match="use filter_classes"):
        assert len(all_detections.of_classes([name])) == len(all_detections.filter_classes([name]))
    with pytest.raises(ConfigError, match="no class unicorn; it has circle"):
        all_detections.filter_classes(["unicorn"])


def test_indexing_keeps_detections_type(predictor: Predictor, photos: Path) -> None:
    detections = predictor(photos / "1.png")
    assert isinstance(detections, Instances)
    for selected in (detections[:3], detections[detections.scores > 0], detections.to("cpu"), detections[0]):
        assert selected.class_names == list(CLASSES)
        assert selected.file_name == detections.file_name
    assert repr(detections[:1]).startswith(f"Detections(1 in {photos / '1.png'}, 96 x 128: {detections.labels[0]} 0.")
    assert "nothing" in repr(detections[:0])


def test_coco_results(predictor: Predictor, photos: Path) -> None:
    detections = predictor(photos / "0.png")
    first = detections.to_coco()[0]
    left, top, right, bottom = detections.boxes[0].tolist()
    assert first["image_id"] == "0"
    assert first["category_id"] == detections.pred_classes[0] + 1
    assert first["bbox"] == pytest.approx([left, top, right - left, bottom - top])
    assert detections.to_coco(7, [10, 20, 30, 40, 50, 60])[0]["category_id"] == (detections.pred_classes[0] + 1) * 10


def test_boxes_are_drawn_at_their_position(predictor: Predictor, photos: Path) -> None:
    detections = predictor(photos / "3.png")
    leftmost = int(detections.boxes[:, 0].argmin())  # where its label fits on the image
    detections = detections[leftmost : leftmost + 1]
    annotated = np.asarray(detections.draw())
    assert annotated.shape == detections.image.shape
    changed = np.argwhere((annotated != detections.image).any(axis=2))
    left, top, _, bottom = detections.boxes[0].tolist()
    assert abs(changed[:, 1].min() - left) <= 3
    assert changed[:, 0].max() <= max(bottom, top + 20) + 3
    assert np.array_equal(np.asarray(detections[:0].draw()), detections.image)


def test_missing_supervision_is_an_error(predictor: Predictor, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detections = predictor(photos / "0.png")
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ConfigError, match="pip install supervision"):
        detections.to_supervision()


INVALID_IMAGES = {
    "float": (np.zeros((8, 8, 3), np.float32), r"uint8 \(H, W, 3\).*got float32 \(8, 8, 3\)"),
    "channels first": (np.zeros((3, 8, 8), np.uint8), r"got uint8 \(3, 8, 8\)"),
    "channels last": (torch.zeros(8, 8, 3, dtype=torch.uint8), r"uint8 \(3, H, W\).*got uint8 \(8, 8, 3\)"),
    "address": ("rtsp://example.com/a", "is a stream: give open_frames"),
    "missing": ("nowhere.jpg", "cannot read image nowhere.jpg: No such file"),
    "pattern": ("nowhere/*.jpg", r"no file matches nowhere/\*.jpg"),
}


@pytest.mark.parametrize("case", INVALID_IMAGES)
def test_invalid_images_are_errors(predictor: Predictor, case: str) -> None:
    image, message = INVALID_IMAGES[case]
    with pytest.raises(DatasetError, match=message):
        predictor(image)


def test_empty_folder_and_several_images_are_errors(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has no images with suffix"):
        predictor.predict(tmp_path)
    with pytest.raises(DatasetError, match="expected one image, got 5: use predict"):
        predictor(photos)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("deim_dfine/deim_dfine_n_shapes",), ConfigError, "is a recipe, which has no weights"),
        (("deim_dfine/deim_dfine_z_coco", "x.pth"), ConfigError, "the closest names are"),
        (("nowhere.pth",), CheckpointError, "nowhere.pth does not exist"),
        (("nowhere.onnx",), CheckpointError, "exported model nowhere.onnx does not exist"),
    ],
)
def test_missing_models_are_errors(arguments: tuple, error: type[DeimError], message: str) -> None:
    with pytest.raises(error, match=message):
        Predictor(*arguments)


def test_invalid_settings_are_errors(checkpoint: Path, predictor: Predictor, photos: Path) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        Predictor(checkpoint, threshold=40)
    with pytest.raises(ConfigError, match="device 'abacus' is not available"):
        Predictor(checkpoint, device="abacus")
    with pytest.raises(ConfigError, match="channels='GBR'"):
        predictor(photos / "0.png", channels="GBR")
    with pytest.raises(ConfigError, match="batch_size=0"):
        predictor.predict(photos, batch_size=0)


def test_unreadable_images_can_be_skipped(predictor: Predictor, photos: Path) -> None:
    errors: list[DatasetError] = []
    images = [photos / "0.png", "nowhere.png", photos / "1.png"]
    detections = list(predictor.stream(images, skip=errors.append))
    assert [item.file_name for item in detections] == [str(photos / "0.png"), str(photos / "1.png")]
    assert [str(item) for item in errors] == ["cannot read image nowhere.png: No such file or directory"]
