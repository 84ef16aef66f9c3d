"""Weighted box fusion, test-time augmentation and ensembles."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from omegaconf import OmegaConf
from torch import Tensor, nn

from deim import Predictor
from deim.cli import main
from deim.cli.arguments import add_fusion
from deim.engine import evaluation
from deim.errors import ConfigError
from deim.inference.ensemble import (
    FusedRunner,
    TestTimeAugmentation,
    _mirrored_keypoints,
    _scale,
    requested_augmentation,
)
from deim.inference.fusion import BoxFusion
from deim.structures.skeleton import Skeleton
from tests.inference.conftest import write_checkpoint

SIZE = (40, 60)


def instances(*rows: Sequence[float], **fields: Tensor) -> Instances:
    """Return detections from rows of left, top, right, bottom, score and class."""
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    boxes, scores, classes = Boxes(values[:, :4]), values[:, 4], values[:, 5].long()
    return Instances(SIZE, pred_boxes=boxes, scores=scores, pred_classes=classes, **fields)


def test_fused_box_is_the_weighted_mean() -> None:
    first = instances((0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.8, 1))
    second = instances((0, 0, 11, 10, 0.3, 0), (20, 20, 30, 30, 0.6, 2))
    fused = BoxFusion().fuse([first, second])
    assert fused.scores.tolist() == pytest.approx([0.6, 0.4, 0.3])
    assert fused.pred_classes.tolist() == [0, 1, 2]
    assert BoxFusion().fuse([first, second], max_detections=2).pred_classes.tolist() == [0, 1]
    assert fused.pred_boxes.tensor[0].tolist() == pytest.approx([0, 0, 10.25, 10])
    with pytest.raises(ConfigError, match="between 0 and 1"):
        BoxFusion(iou_threshold=1)


def test_objects_of_one_source_are_not_fused() -> None:
    crowd = instances((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 11, 0.8, 0))
    assert BoxFusion().fuse([crowd, crowd]).scores.tolist() == pytest.approx([0.9, 0.8])
    assert len(BoxFusion(is_exclusive=False).fuse([crowd, crowd])) == 1


def test_sources_without_detections() -> None:
    assert len(BoxFusion().fuse([instances(), instances()])) == 0
    fused = BoxFusion().fuse([instances(), instances((0, 0, 10, 10, 0.9, 0))])
    assert fused.scores.tolist() == pytest.approx([0.45])


def test_sources_without_detections_of_a_model_with_keypoints() -> None:
    """Models return tensors of torch's inference mode, which cannot be changed outside of it."""
    with torch.inference_mode():
        parts = [instances(pred_keypoints=torch.zeros(0, 2, 3)) for _ in range(2)]
    fused = BoxFusion().fuse(parts)
    assert fused.pred_keypoints.shape == (0, 2, 3)


def test_masks_and_keypoints_are_those_of_the_best_detection() -> None:
    def part(score: float, value: int) -> Instances:
        masks = torch.full((1, *SIZE), bool(value))
        return instances((0, 0, 9, 9, score, 0), pred_masks=masks, pred_keypoints=torch.full((1, 2, 3), float(value)))

    fused = BoxFusion().fuse([part(0.2, 0), part(0.8, 1)])
    assert fused.pred_masks.all()
    assert fused.pred_keypoints[0].tolist() == [[1, 1, 0.5]] * 2, "the score is that of the fused detection"


def test_published_algorithm_equals_ensemble_boxes() -> None:
    ensemble_boxes = pytest.importorskip("ensemble_boxes")
    random = np.random.default_rng(0)
    for number_of_models in (1, 2, 3):
        centers, halves = random.uniform(0.3, 0.7, (20, 2)), random.uniform(0.05, 0.25, (20, 2))
        objects = np.concatenate([centers - halves, centers + halves], axis=1)
        boxes = [objects + random.normal(0, 0.02, objects.shape) for _ in range(number_of_models)]
        scores, classes = random.random((number_of_models, 20)), np.tile(np.arange(20) % 3, (number_of_models, 1))
        expected = ensemble_boxes.weighted_boxes_fusion(boxes, list(scores), list(classes), iou_thr=0.55)
        sources = np.repeat(np.arange(number_of_models), 20)
        arguments = (np.concatenate(boxes), scores.ravel(), classes.ravel(), sources, number_of_models)
        fused_boxes, fused_scores, best = BoxFusion(is_exclusive=False).fuse_boxes(*arguments)
        assert fused_boxes == pytest.approx(expected[0], abs=1e-6)
        assert fused_scores == pytest.approx(expected[1], abs=1e-6)
        assert classes.ravel()[best].tolist() == expected[2].tolist()


class BrightRegion:
    """Runner that detects the bright region of an image, with its mask, and its left and right end as keypoints."""

    class_names, description = ["region"], "fake"
    skeleton = Skeleton(("left_end", "right_end"), ((0, 1),))

    def prepare(self, image: np.ndarray) -> Tensor:
        return torch.from_numpy(image).permute(2, 0, 1)

    def __call__(self, images: list[Tensor], sizes: list[tuple[int, int]], threshold: float = 0.0) -> list[Instances]:
        results = []
        for image in images:
            mask = image[0] > 128
            rows, columns = torch.nonzero(mask).unbind(dim=1)
            left, top, right, bottom = (
                float(value) for value in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            )
            points = torch.tensor([[[left, top, 1], [right, top, 1]]])
            results.append(instances((left, top, right, bottom, 0.8, 0), pred_masks=mask[None], pred_keypoints=points))
        return results


def test_detections_in_the_mirrored_image_are_mirrored_back() -> None:
    image = np.zeros((*SIZE, 3), np.uint8)
    image[5:15, 10:30] = 255
    runner = FusedRunner([BrightRegion()], TestTimeAugmentation())
    (fused,) = runner([runner.prepare(image)], [SIZE])
    assert fused.scores.tolist() == pytest.approx([0.8])
    assert fused.pred_boxes.tensor.tolist() == [[10, 5, 30, 15]]
    mirrored = runner._views[1]([image], [SIZE], 0.0)[0]
    assert mirrored.pred_boxes.tensor.tolist() == [[10, 5, 30, 15]]
    assert (mirrored.pred_masks[0].numpy() == (image[..., 0] > 128)).all()
    assert mirrored.pred_keypoints[0, :, :2].tolist() == [[10, 5], [30, 5]], "left and right are swapped"


def test_flip_pairs_of_the_data_are_swapped() -> None:
    """Names such as "0" and "1" do not imply them."""
    runner = BrightRegion()
    runner.skeleton = Skeleton(("0", "1"), flip_pairs=((0, 1),))
    assert _mirrored_keypoints(runner, 2) == [1, 0]
    assert Skeleton.from_dict(runner.skeleton.to_dict()).flip_pairs == ((0, 1),)
    metadata = {"keypoint_names": ["0", "1", "2"], "keypoint_flip_map": [("2", "0")]}
    runner.skeleton = Skeleton.from_metadata(metadata)
    assert _mirrored_keypoints(runner, 3) == [2, 1, 0]
    runner.skeleton = Skeleton.from_dict({"names": ["left", "right"], "connections": []})
    assert _mirrored_keypoints(runner, 2) == [1, 0], "files of earlier versions lack the pairs"


class FixedDetections:
    """Runner with the same detections for every image."""

    class_names, description, skeleton = ["object"], "fake", None

    def __init__(self, *rows: tuple[float, ...]):
        self.rows = rows

    def prepare(self, image: np.ndarray) -> Tensor:
        return torch.from_numpy(image).permute(2, 0, 1)

    def __call__(self, images: list[Tensor], sizes: list[tuple[int, int]], threshold: float = 0.0) -> list[Instances]:
        return [instances(*(row for row in self.rows if row[4] >= threshold)) for _ in images]


def test_models_that_find_different_objects() -> None:
    """Predictions have the objects of all models; evaluations have as many detections as those of one model."""
    left, right = FixedDetections((0, 0, 10, 10, 0.9, 0)), FixedDetections((20, 0, 30, 10, 0.8, 0))
    runner = FusedRunner([left, right])
    image = runner.prepare(np.zeros((*SIZE, 3), np.uint8))
    (predicted,) = runner([image], [SIZE], 0.3)
    assert predicted.scores.tolist() == pytest.approx([0.45, 0.4])
    (evaluated,) = runner([image], [SIZE])
    assert evaluated.scores.tolist() == pytest.approx([0.45])


def test_sizes_are_scaled_to_multiples_of_the_stride() -> None:
    assert _scale(T.Resize((640, 480)), 1.3).shape == (832, 640)
    assert _scale(T.Resize((64, 64)), 0.1).shape == (32, 32)
    scaled = _scale(T.ResizeShortestEdge(800, 1333, "choice"), 0.5)
    assert (list(scaled.short_edge_length), scaled.max_size) == ([400, 400], 666)
    with pytest.raises(ConfigError, match="between"):
        TestTimeAugmentation(scales=[0])


def test_scales_and_classes_are_checked() -> None:
    with pytest.raises(ConfigError, match="exported files have a fixed input size"):
        FusedRunner([BrightRegion()], TestTimeAugmentation(scales=[1.0, 1.25]))
    other = BrightRegion()
    other.class_names = ["other"]
    with pytest.raises(ConfigError, match="the first has region, another one other"):
        FusedRunner([BrightRegion(), other])


def test_ensemble_of_one_model_twice_has_the_boxes_of_the_model(checkpoint: Path, photos: Path) -> None:
    single = Predictor(checkpoint, device="cpu", threshold=0.0).predict(photos)
    twice = Predictor.ensemble([checkpoint, checkpoint], device="cpu", threshold=0.0).predict(photos)
    for expected, detections in zip(single, twice, strict=True):
        assert detections.scores.tolist() == pytest.approx(expected.scores.tolist(), abs=1e-5)
        torch.testing.assert_close(detections.boxes, expected.boxes, atol=1e-2, rtol=0)


def test_predictor_with_views(checkpoint_with_heads: Path, photos: Path) -> None:
    tta = TestTimeAugmentation(scales=[1.0, 1.5])
    predictor = Predictor(checkpoint_with_heads, device="cpu", threshold=0.05, tta=tta)
    assert predictor.runner.description == "torch on cpu, 4 forward passes per image"
    for detections in predictor.predict(photos):
        assert (detections.scores >= 0.05).all()
        assert detections.masks.shape == (len(detections), *detections.image_size)
        assert detections.keypoints.shape == (len(detections), 3, 3)


def test_predict_command(checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    other = write_checkpoint(tmp_path / "other.pth")
    options = ["--output", str(tmp_path / "found"), "--device", "cpu", "--threshold", "0.1"]
    options += ["--tta", "--ensemble", str(other), "--save", "coco"]
    assert main(["predict", str(checkpoint), str(photos / "0.png"), *options]) == 0
    assert "4 forward passes per image" in capsys.readouterr().out


def test_evaluation_accepts_exported_files(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def open_file(path: str, device: str) -> BrightRegion:
        opened.append((path, device))
        return BrightRegion()

    monkeypatch.setattr(evaluation, "load_exported", open_file)
    monkeypatch.setattr(evaluation, "TorchRunner", lambda trained, device: BrightRegion())
    monkeypatch.setattr(evaluation, "required_classes", lambda cfg, split: ["region"])
    cfg = OmegaConf.create({"train": {"device": "cpu"}, "dataloader": {"test": {"dataset": {"names": "regions"}}}})
    detector = evaluation._fused_detector(cfg, nn.Identity(), None, ["other.onnx"])
    assert opened == [("other.onnx", "cpu")]
    assert len(detector.runner.runners) == 2


def test_options_request_views() -> None:
    parser = ArgumentParser()
    add_fusion(parser)

    def requested(*words: str) -> TestTimeAugmentation | None:
        return requested_augmentation(parser.parse_args(words))

    assert requested() is None
    assert requested_augmentation(Namespace()) is None, "callers without the options"
    assert requested("--tta") == TestTimeAugmentation()
    assert requested("--tta-scales", "1,1.25") == TestTimeAugmentation(flip=False, scales=[1, 1.25])
    assert requested("--tta", "--tta-scales", "1.5") == TestTimeAugmentation(scales=[1.5])


def test_training_with_views_is_an_error(capsys: pytest.CaptureFixture) -> None:
    assert main(["train", "--config-file", "deimv2/deimv2_hgnetv2_atto_shapes", "--tta"]) == 2
    assert "add --eval-only" in capsys.readouterr().err
