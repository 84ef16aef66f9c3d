"""From pictures to boxes: every kind of picture, in order, as the model itself finds them."""

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


def same(a: Instances, b: Instances, tolerance: float = 1e-4) -> bool:
    return (
        a.image_size == b.image_size
        and torch.allclose(a.scores, b.scores, atol=tolerance)
        and torch.allclose(a.pred_boxes.tensor, b.pred_boxes.tensor, atol=tolerance * max(a.image_size))
    )


def test_a_checkpoint_alone_is_enough_and_detections_are_those_of_the_model(
    predictor: Predictor, checkpoint: Path, photos: Path
) -> None:
    found = predictor(photos / "0.png")
    assert predictor.class_names == list(CLASSES)
    assert found.file_name == str(photos / "0.png")
    cfg = checkpoint_recipe()
    model = instantiate(cfg.model).eval()
    load_for_inference(model, str(checkpoint))
    mapper = instantiate(cfg.dataloader.test.mapper)
    with torch.no_grad():
        (wanted,) = model([mapper({"file_name": str(photos / "0.png")})])
    assert same(found, wanted["instances"])
    assert len(found) == len(wanted["instances"]) > 0


def test_every_kind_of_picture_is_taken_and_the_order_kept(predictor: Predictor, photos: Path) -> None:
    files = sorted(photos.iterdir())
    arrays = [read_image(str(file)) for file in files]
    wanted = [predictor(file) for file in files]
    kinds = {
        "folder": photos,
        "pattern": str(photos / "*.png"),
        "paths": [str(file) for file in files],
        "arrays": arrays,
        "tensors": [torch.from_numpy(array).permute(2, 0, 1) for array in arrays],
        "PIL": [Image.open(file) for file in files],
        "mixed": [files[0], arrays[1], Image.open(files[2]), str(files[3]), arrays[4]],
        "generator": (file for file in files),
    }
    for name, pictures in kinds.items():
        found = predictor.predict(pictures, batch_size=2)
        assert len(found) == len(wanted), name
        assert all(same(a, b) for a, b in zip(found, wanted, strict=True)), name
    from_bgr = predictor.predict([array[..., ::-1] for array in arrays], channels="BGR")
    assert all(same(a, b) for a, b in zip(from_bgr, wanted, strict=True))
    stacked = predictor.predict(np.stack([arrays[2], arrays[2]]))
    assert len(stacked) == 2
    assert same(stacked[1], wanted[2])


def test_the_threshold_and_classes_choose(checkpoint: Path, predictor: Predictor, photos: Path) -> None:
    everything = predictor(photos / "0.png")
    level = float(everything.scores.median())
    found = Predictor(checkpoint, threshold=level, device="cpu")(photos / "0.png")
    assert 0 < len(found) < len(everything)
    assert (found.scores >= level).all()
    name = everything.labels[0]
    assert set(everything.of_classes([name]).labels) == {name}
    with pytest.raises(ConfigError, match="no class unicorn; it has circle"):
        everything.of_classes(["unicorn"])


def test_detections_stay_what_they_are(predictor: Predictor, photos: Path) -> None:
    found = predictor(photos / "1.png")
    assert isinstance(found, Instances)
    for made in (found[:3], found[found.scores > 0], found.to("cpu"), found[0]):
        assert made.class_names == list(CLASSES)
        assert made.file_name == found.file_name
    assert repr(found[:1]).startswith(f"Detections(1 in {photos / '1.png'}, 96 x 128: {found.labels[0]} 0.")
    assert "nothing" in repr(found[:0])


def test_coco_results_have_the_ids_and_boxes_of_coco(predictor: Predictor, photos: Path) -> None:
    found = predictor(photos / "0.png")
    first = found.to_coco()[0]
    left, top, right, bottom = found.boxes[0].tolist()
    assert first["image_id"] == "0"
    assert first["category_id"] == found.pred_classes[0] + 1
    assert first["bbox"] == pytest.approx([left, top, right - left, bottom - top])
    assert found.to_coco(7, [10, 20, 30, 40, 50, 60])[0]["category_id"] == (found.pred_classes[0] + 1) * 10


def test_boxes_are_drawn_where_they_are(predictor: Predictor, photos: Path) -> None:
    found = predictor(photos / "3.png")
    leftmost = int(found.boxes[:, 0].argmin())  # where its label fits on the image
    found = found[leftmost : leftmost + 1]
    drawn = np.asarray(found.draw())
    assert drawn.shape == found.image.shape
    changed = np.argwhere((drawn != found.image).any(axis=2))
    left, top, _, bottom = found.boxes[0].tolist()
    assert abs(changed[:, 1].min() - left) <= 3
    assert changed[:, 0].max() <= max(bottom, top + 20) + 3
    assert np.array_equal(np.asarray(found[:0].draw()), found.image)


def test_supervision_is_asked_for_only_where_it_is_used(
    predictor: Predictor, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = predictor(photos / "0.png")
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ConfigError, match="pip install supervision"):
        found.to_supervision()


MISTAKES = {
    "float": (np.zeros((8, 8, 3), np.float32), r"uint8 \(H, W, 3\).*got float32 \(8, 8, 3\)"),
    "channels first": (np.zeros((3, 8, 8), np.uint8), r"got uint8 \(3, 8, 8\)"),
    "channels last": (torch.zeros(8, 8, 3, dtype=torch.uint8), r"uint8 \(3, H, W\).*got uint8 \(8, 8, 3\)"),
    "address": ("https://example.com/a.jpg", "is a URL: download"),
    "missing": ("nowhere.jpg", "cannot read image nowhere.jpg: No such file"),
    "pattern": ("nowhere/*.jpg", r"no file matches nowhere/\*.jpg"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_no_picture_is_told(predictor: Predictor, mistake: str) -> None:
    picture, message = MISTAKES[mistake]
    with pytest.raises(DatasetError, match=message):
        predictor(picture)


def test_an_empty_folder_and_several_pictures_for_one_are_told(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
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
def test_models_that_are_not_there_are_told(arguments: tuple, error: type[DeimError], message: str) -> None:
    with pytest.raises(error, match=message):
        Predictor(*arguments)


def test_settings_without_sense_are_told(checkpoint: Path, predictor: Predictor, photos: Path) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        Predictor(checkpoint, threshold=40)
    with pytest.raises(ConfigError, match="device 'abacus' is not available"):
        Predictor(checkpoint, device="abacus")
    with pytest.raises(ConfigError, match="channels='GBR'"):
        predictor(photos / "0.png", channels="GBR")
    with pytest.raises(ConfigError, match="batch_size=0"):
        predictor.predict(photos, batch_size=0)


def test_pictures_that_cannot_be_read_can_be_skipped(predictor: Predictor, photos: Path) -> None:
    failures: list[DatasetError] = []
    pictures = [photos / "0.png", "nowhere.png", photos / "1.png"]
    found = list(predictor.stream(pictures, skip=failures.append))
    assert [one.file_name for one in found] == [str(photos / "0.png"), str(photos / "1.png")]
    assert [str(one) for one in failures] == ["cannot read image nowhere.png: No such file or directory"]
