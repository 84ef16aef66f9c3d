"""Predicted masks and keypoints: results, files, drawings, tiles and exported files."""

import csv
import json
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools import mask as coco_masks

from deim import Predictor
from deim.config import build
from deim.errors import ConfigError, ExportError
from deim.inference.batch_predict import PredictionJob
from deim.inference.detections import Detections
from deim.inference.export.export import export
from deim.inference.export.graph import DEIMGraph
from deim.inference.export.options import ExportOptions
from deim.inference.export.verification import compare_detections
from deim.inference.exported_runner import open_session
from deim.inference.outlines import mask_outline
from deim.inference.tiling import Tiling, merge_views
from deim.inference.trained_model import load_trained
from deim.inference.writers import WRITERS, open_writers
from deim.structures import mask_images
from deim.structures.skeleton import COCO_PERSON, Skeleton
from deim.visualization.annotation import annotate
from tests.inference.conftest import SKELETON, write_checkpoint_with_heads

HEIGHT, WIDTH = 40, 60


@pytest.fixture(scope="module")
def predictor(checkpoint_with_heads: Path) -> Predictor:
    return Predictor(checkpoint_with_heads, threshold=0.0, device="cpu")


def draw_mask(*parts: tuple[int, int, int, int]) -> torch.Tensor:
    """Return a mask of rectangles (left, top, right, bottom)."""
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    for left, top, right, bottom in parts:
        mask[top:bottom, left:right] = True
    return mask


def detections_with(masks: bool = True, keypoints: bool = True) -> Detections:
    """Return two detections of the classes 1 and 0; the second mask has two parts."""
    boxes = torch.tensor([[5.0, 5, 25, 20], [20, 10, 50, 30]])
    instances = Instances(
        (HEIGHT, WIDTH), pred_boxes=Boxes(boxes), scores=torch.tensor([0.9, 0.5]), pred_classes=torch.tensor([1, 0])
    )
    if masks:
        instances.pred_masks = torch.stack([draw_mask((5, 5, 25, 20)), draw_mask((20, 10, 30, 30), (40, 10, 50, 30))])
    if keypoints:
        points = torch.tensor([[[6.0, 7], [15, 10], [24, 19]], [[21, 11], [34.5, 19.5], [49, 29]]])
        instances.pred_keypoints = torch.cat([points, torch.tensor([0.9, 0.5])[:, None, None].expand(2, 3, 1)], dim=2)
    image = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    return Detections.from_instances(instances, ["cat", "dog"], image, "a/street.png", SKELETON if keypoints else None)


def test_predictor_returns_masks_and_keypoints_in_image_coordinates(predictor: Predictor, photos: Path) -> None:
    for detections in predictor.predict(photos, batch_size=2):
        height, width = detections.image_size
        assert detections.masks is not None
        assert detections.keypoints is not None
        assert (detections.masks.shape, detections.masks.dtype) == ((len(detections), height, width), torch.bool)
        assert detections.keypoints.shape == (len(detections), 3, 3)
        assert 0.05 < detections.masks.float().mean() < 0.95
        assert torch.equal(detections.keypoints[..., 2], detections.scores[:, None].expand(-1, 3))
        assert detections.skeleton == SKELETON
        assert detections[:2].masks.shape == (2, height, width)
        assert detections[:2].skeleton == SKELETON


def test_predictor_has_the_masks_and_keypoints_of_the_model(
    predictor: Predictor, checkpoint_with_heads: Path, photos: Path
) -> None:
    trained = load_trained(str(checkpoint_with_heads))
    mapper = build(trained.config, "dataloader.test.mapper")
    with torch.inference_mode():
        (result,) = trained.model([mapper({"file_name": str(photos / "3.png")})])
    expected, detections = result["instances"], predictor(photos / "3.png")  # in deployment form
    # The order of the outputs, although the config of the model has the keypoints first.
    assert trained.model.predicted_fields == ("masks", "keypoints")
    assert detections.scores.tolist() == pytest.approx(expected.scores.tolist(), abs=1e-5)
    assert torch.allclose(detections.keypoints, expected.pred_keypoints, atol=1e-2)
    assert (detections.masks != expected.pred_masks).float().mean() < 1e-3


def test_only_masks_of_detections_above_the_threshold_are_resized(
    predictor: Predictor, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = predictor(photos / "0.png")
    monkeypatch.setattr(predictor, "threshold", float(expected.scores[3]))
    with mock.patch.object(mask_images, "resize_masks", side_effect=mask_images.resize_masks) as resize:
        detections = predictor(photos / "0.png")
    assert [len(call.args[0]) for call in resize.call_args_list] == [4]
    assert len(detections) == 4
    assert torch.equal(detections.masks, expected.masks[:4])
    assert torch.equal(detections.keypoints, expected.keypoints[:4])
    monkeypatch.setattr(predictor, "threshold", 1.0)
    empty = predictor(photos / "0.png")
    assert (len(empty), empty.masks.shape, empty.keypoints.shape) == (0, (0, 96, 128), (0, 3, 3))
    empty.draw()


def test_coco_results_contain_encoded_masks_and_pixel_indices() -> None:
    detections = detections_with()
    results = detections.to_coco()
    assert [result["image_id"] for result in results] == ["street", "street"]
    for result, mask in zip(results, detections.masks.numpy(), strict=True):
        np.testing.assert_array_equal(coco_masks.decode(result["segmentation"]), mask)
    json.dumps(results)
    assert results[0]["keypoints"] == pytest.approx([5.5, 6.5, 0.9, 14.5, 9.5, 0.9, 23.5, 18.5, 0.9])
    boxes_only = detections_with(masks=False, keypoints=False)
    assert boxes_only.to_coco() == [
        {key: value for key, value in result.items() if key not in ("segmentation", "keypoints")} for result in results
    ]
    assert (boxes_only.masks, boxes_only.keypoints, boxes_only.skeleton) == (None, None, None)


def test_conversion_to_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    package = mock.MagicMock()
    monkeypatch.setitem(__import__("sys").modules, "supervision", package)
    detections = detections_with()
    detections.to_supervision()
    np.testing.assert_array_equal(package.Detections.call_args.kwargs["mask"], detections.masks.numpy())
    detections.to_supervision_keypoints()
    points, classes, scores = package.KeyPoints.call_args.args
    assert (points.shape, classes.tolist(), scores.shape) == ((2, 3, 2), [1, 0], (2, 3))
    detections_with(masks=False).to_supervision()
    assert package.Detections.call_args.kwargs["mask"] is None
    with pytest.raises(ConfigError, match="predicts no keypoints"):
        detections_with(keypoints=False).to_supervision_keypoints()


def test_objects_of_supervision_are_drawn_where_the_detections_are() -> None:
    supervision = pytest.importorskip("supervision")
    detections = detections_with()
    masked = supervision.MaskAnnotator(opacity=1).annotate(detections.image.copy(), detections.to_supervision())
    np.testing.assert_array_equal((masked != detections.image).any(axis=2), detections.masks.any(dim=0).numpy())
    keypoints = detections.to_supervision_keypoints()
    assert keypoints.data["class_name"].tolist() == ["dog", "cat"]
    edges = [(first + 1, second + 1) for first, second in detections.skeleton.connections]
    drawn = supervision.EdgeAnnotator(thickness=1, edges=edges).annotate(detections.image.copy(), keypoints)
    changed = (drawn != detections.image).any(axis=2)
    for x, y in ((10, 8), (19, 14), (28, 15), (42, 24)):  # centers of the connections
        assert changed[y - 1 : y + 2, x - 1 : x + 2].any()
    assert len(detections[:0].to_supervision()) == len(detections[:0].to_supervision_keypoints()) == 0


class TensorOnDevice(torch.Tensor):
    """Tensor that, like one on a GPU, has no array and cannot be combined with a tensor on the CPU."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.numpy:
            raise TypeError("cannot convert a tensor on this device to numpy")
        if func is torch.Tensor.cpu or (func is torch.Tensor.to and "cpu" in (*args[1:], *(kwargs or {}).values())):
            return args[0].as_subclass(torch.Tensor)
        with torch._C.DisableTorchFunctionSubclass():
            is_mixed = any(type(x) is torch.Tensor and x.dim() > 0 for x in (*args, *(kwargs or {}).values()))
        if is_mixed:
            raise RuntimeError(f"{func} needs tensors on one device")
        return super().__torch_function__(func, types, args, kwargs)


def test_detections_on_a_device_can_be_drawn_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = detections_with()
    moved = expected[:]
    moved.pred_boxes.tensor = moved.boxes.as_subclass(TensorOnDevice)
    for name in ("scores", "pred_classes", "pred_masks", "pred_keypoints"):
        moved.set(name, moved.get(name).as_subclass(TensorOnDevice))
    with pytest.raises(TypeError, match="cannot convert"):
        moved.boxes.numpy()
    assert np.array_equal(np.asarray(moved.draw()), np.asarray(expected.draw()))
    assert moved.to_coco() == expected.to_coco()
    assert moved.filter_classes(["cat"]).labels == ["cat"]
    for folder, detections in (("moved", moved), ("expected", expected)):
        write_all(tmp_path / folder, tuple(name for name in WRITERS if name != "mot"), detections)
    files = [path for path in (tmp_path / "expected").rglob("*") if path.is_file()]
    assert len(files) >= len(WRITERS) - 1
    for path in files:
        content = (tmp_path / "moved" / path.relative_to(tmp_path / "expected")).read_bytes()
        # Annotation tools get the path of the image, which is in the output folder.
        assert path.read_bytes() == content.replace(b"/moved/", b"/expected/"), path
    package = mock.MagicMock()
    monkeypatch.setitem(__import__("sys").modules, "supervision", package)
    moved.to_supervision()
    moved.to_supervision_keypoints()


def test_drawings_have_translucent_masks_and_skeletons() -> None:
    image = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    mask, color = draw_mask((10, 10, 50, 30)).numpy(), (255, 0, 0)
    points = np.array([[15.5, 15.5, 1], [40.5, 15.5, 1], [40.5, 25.5, 0]])
    box = np.array([[10, 10, 50, 30]])
    annotated = annotate(image, box, [""], [color], [mask], [points], [(0, 1), (1, 2)])
    assert (image == 200).all()
    assert annotated[20, 30].tolist() == [round(200 * 0.55 + 255 * 0.45), 110, 110]  # inside of the mask
    assert annotated[5, 5].tolist() == [200, 200, 200]
    assert annotated[15, 15].tolist() == annotated[15, 30].tolist() == [255, 0, 0]  # a keypoint and a connection
    assert annotated[25, 40].tolist() == annotated[20, 30].tolist()  # not labeled
    plain = annotate(image, box, [""], [color])
    np.testing.assert_array_equal(annotate(image, box, [""], [color], [None], [None]), plain)


def test_drawn_detections_differ_only_where_the_detections_are() -> None:
    drawn = np.asarray(detections_with().draw())
    without = np.asarray(detections_with(masks=False, keypoints=False).draw())
    changed = (drawn != without).any(axis=2)
    assert changed[27, 45]  # a mask
    assert changed[22:25, 36:40].any()  # the connection of two keypoints, between the parts of the mask
    assert not changed[35, 5:55].any()


def test_outline_covers_the_mask() -> None:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    disk = (rows - 20) ** 2 + (columns - 30) ** 2 < 15**2
    ring = disk & ((rows - 20) ** 2 + (columns - 30) ** 2 > 6**2)
    parts = draw_mask((5, 5, 20, 20), (30, 10, 50, 30), (22, 22, 24, 24)).numpy()
    for mask, minimum in ((disk, 0.95), (ring, 0.9), (parts, 1.0)):
        encoded = coco_masks.frPyObjects([mask_outline(mask).ravel().tolist()], HEIGHT, WIDTH)
        covered = coco_masks.decode(encoded)[..., 0] > 0
        assert (covered & mask).sum() / (covered | mask).sum() >= minimum
    assert len(mask_outline(disk)) < 40
    assert mask_outline(draw_mask((3, 4, 4, 5)).numpy()).tolist() == [[3, 4], [4, 4], [4, 5], [3, 5]]
    assert mask_outline(np.zeros((3, 3), bool)).shape == (0, 2)


def write_all(folder: Path, formats: tuple[str, ...], detections: Detections) -> None:
    writers = open_writers(formats, folder, detections.class_names)
    for writer in writers:
        writer.add(detections, "street")
        writer.close()


def test_files_of_masks_and_keypoints(tmp_path: Path) -> None:
    detections = detections_with()
    write_all(tmp_path, ("coco", "csv", "masks"), detections)
    coco = json.loads((tmp_path / "coco.json").read_text())
    assert coco["categories"][0] == {
        **{"id": 1, "name": "cat"},
        **{"keypoints": ["top", "middle", "bottom"], "skeleton": [[1, 2], [2, 3]]},
    }
    areas = [300.0, 400.0]
    assert [annotation["area"] for annotation in coco["annotations"]] == areas
    assert [annotation["num_keypoints"] for annotation in coco["annotations"]] == [3, 3]
    assert coco["annotations"][0]["keypoints"] == [5.5, 6.5, 2, 14.5, 9.5, 2, 23.5, 18.5, 2]
    rows = list(csv.DictReader((tmp_path / "detections.csv").open()))
    assert [float(row["mask_area"]) for row in rows] == areas
    assert (rows[1]["middle_x"], rows[1]["bottom_y"]) == ("34.5", "29.0")
    numbers = np.asarray(Image.open(tmp_path / "masks" / "street.png"))
    assert numbers.dtype == np.uint8
    np.testing.assert_array_equal(numbers == 1, detections.masks[0].numpy())  # the best is on top
    np.testing.assert_array_equal(numbers == 2, (detections.masks[1] & ~detections.masks[0]).numpy())


def test_yolo_files_of_masks_and_keypoints(tmp_path: Path) -> None:
    detections = detections_with(keypoints=False)
    write_all(tmp_path / "masks", ("yolo",), detections)
    lines = [line.split() for line in (tmp_path / "masks/labels/street.txt").read_text().splitlines()]
    assert [(line[0], line[-1]) for line in lines] == [("1", "0.900000"), ("0", "0.500000")]
    for line, mask in zip(lines, detections.masks.numpy(), strict=True):
        corners = np.reshape([float(value) for value in line[1:-1]], (-1, 2)) * (WIDTH, HEIGHT)
        encoded = coco_masks.frPyObjects([corners.ravel().tolist()], HEIGHT, WIDTH)
        np.testing.assert_array_equal(coco_masks.decode(encoded)[..., 0], mask)
    detections.pred_masks[1] = False
    write_all(tmp_path / "empty", ("yolo",), detections)
    line = (tmp_path / "empty/labels/street.txt").read_text().splitlines()[1].split()
    assert np.multiply([float(value) for value in line[1:5]], (WIDTH, HEIGHT) * 2).round(3).tolist() == [20, 10, 50, 10]
    write_all(tmp_path / "keypoints", ("yolo",), detections_with())
    line = (tmp_path / "keypoints/labels/street.txt").read_text().splitlines()[0].split()
    assert [float(value) for value in line[1:5]] == pytest.approx([15 / 60, 12.5 / 40, 20 / 60, 15 / 40], abs=1e-6)
    points = np.reshape([float(value) for value in line[5:-1]], (3, 3))
    assert (points[:, :2] * (WIDTH, HEIGHT)).round(3).tolist() == [[6, 7], [15, 10], [24, 19]]
    assert points[:, 2].tolist() == [2, 2, 2]


def test_mask_images_require_masks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the model predicts no masks"):
        write_all(tmp_path, ("masks",), detections_with(masks=False))


def test_all_formats_of_a_predictor(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    formats = ["images", "masks", "coco", "csv", "yolo"]
    assert PredictionJob(predictor, formats, str(tmp_path)).run([str(photos)]) == 5
    assert [file.name for file in sorted((tmp_path / "masks").iterdir())] == [f"{number}.png" for number in range(5)]


def test_masks_and_keypoints_of_tiles_are_placed_in_the_image() -> None:
    def view(box: tuple[float, ...], score: float, point: tuple[float, float], size: tuple[int, int]) -> Instances:
        mask = torch.zeros(1, *size, dtype=torch.bool)
        left, top, right, bottom = map(int, box)
        mask[0, top:bottom, left:right] = True
        fields = {"scores": torch.tensor([score]), "pred_classes": torch.tensor([0]), "pred_masks": mask}
        keypoints = torch.tensor([[[*point, score]]])
        return Instances(size, pred_boxes=Boxes(torch.tensor([box])), pred_keypoints=keypoints, **fields)

    views = [(0, 0, 60, 40), (0, 0, 30, 40), (20, 0, 50, 40)]
    parts = [
        view((22.0, 10, 29, 20), 0.5, (25.0, 15), (40, 60)),
        view((1.0, 2, 9, 8), 0.6, (5.0, 5), (40, 30)),
        view((2.0, 10, 9, 20), 0.9, (5.0, 15), (40, 30)),
    ]
    merged = merge_views(parts, views, (40, 60))
    assert merged.scores.tolist() == pytest.approx([0.9, 0.6])
    assert torch.equal(merged.pred_masks, torch.stack([draw_mask((22, 10, 29, 20)), draw_mask((1, 2, 9, 8))]))
    assert merged.pred_keypoints[:, 0].tolist() == [pytest.approx([25, 15, 0.9]), pytest.approx([5, 5, 0.6])]


def test_predictor_with_tiles(predictor: Predictor, photos: Path) -> None:
    (detections,) = predictor.predict(photos / "3.png", tiling=Tiling(96))
    assert detections.masks.shape == (len(detections), 200, 160)
    assert detections.keypoints.shape == (len(detections), 3, 3)


@pytest.fixture(scope="module")
def exported(checkpoint_with_heads: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return an ONNX file and the log line of its verification."""
    path, lines = tmp_path_factory.mktemp("exported") / "model.onnx", []
    export(str(checkpoint_with_heads), None, str(path), ExportOptions(), log=lines.append)
    return path, lines[0]


def test_exported_file_predicts_the_same_masks_and_keypoints(
    exported: tuple[Path, str], predictor: Predictor, photos: Path
) -> None:
    path, line = exported
    assert "mean IoU of masks 1.000" in line
    file = Predictor(path, threshold=0.0, device="cpu")
    assert file.runner.skeleton == SKELETON
    expected, detections = predictor(photos / "0.png"), file(photos / "0.png")
    assert detections.scores.tolist() == pytest.approx(expected.scores.tolist(), abs=1e-5)
    assert (detections.masks != expected.masks).float().mean() < 1e-3
    assert torch.allclose(detections.keypoints, expected.keypoints, atol=1e-3)
    file.threshold = float(expected.scores[2])
    detections = file(photos / "0.png")
    assert 2 <= len(detections) == len(detections.masks) < len(expected)


def test_export_with_other_masks_is_an_error(exported: tuple[Path, str], checkpoint_with_heads: Path) -> None:
    session = open_session(str(exported[0]), "cpu")
    model = load_trained(str(checkpoint_with_heads)).model
    with torch.no_grad():
        model.decoder.heads.masks.bias.add_(10.0)
    agreement = compare_detections(DEIMGraph(model), session, session.metadata, None)
    assert agreement.num_matched == agreement.num_detections
    with pytest.raises(ExportError, match="its masks differ from those of torch: their mean IoU is 0"):
        agreement.check("model.onnx", "float32")


@pytest.mark.long
@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_other_precisions(checkpoint_with_heads: Path, precision: str, photos: Path, tmp_path: Path) -> None:
    options = ExportOptions(precision=precision)
    export(str(checkpoint_with_heads), None, str(tmp_path / "model.onnx"), options, str(photos))
    detections = Predictor(tmp_path / "model.onnx", threshold=0.0, device="cpu")(photos / "0.png")
    assert detections.masks.shape[1:] == (96, 128)


@pytest.mark.long
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_raw_outputs_and_dynamic_size(suffix: str, tmp_path: Path) -> None:
    path = write_checkpoint_with_heads(tmp_path / "model.pth")
    lines: list[str] = []
    options = ExportOptions(dynamic_size=True, postprocess=False)
    export(str(path), None, str(tmp_path / f"model{suffix}"), options, log=lines.append)
    assert "mean IoU of masks 1.000; batches: 1 x 96 x 128, 3 x 96 x 128, 1 x 320 x 448" in lines[0]


@pytest.mark.parametrize("field", ["masks", "keypoints"])
def test_model_with_one_head(field: str, photos: Path, tmp_path: Path) -> None:
    path = write_checkpoint_with_heads(tmp_path / "model.pth", **{"masks": False, "keypoints": False, field: True})
    detections = Predictor(path, threshold=0.0, device="cpu")(photos / "0.png")
    assert (detections.masks is not None, detections.keypoints is not None) == (field == "masks", field == "keypoints")
    assert (detections.skeleton is not None) == (field == "keypoints")
    detections.draw()


def test_skeletons() -> None:
    assert Skeleton.for_count(17) == COCO_PERSON
    assert COCO_PERSON.names[16] == "right_ankle"
    assert Skeleton.for_count(2) == Skeleton(("keypoint 1", "keypoint 2"))
    assert Skeleton.from_dict(json.loads(json.dumps(SKELETON.to_dict()))) == SKELETON
    assert Skeleton.from_metadata({}) is None
    assert Skeleton.from_metadata(SKELETON.to_metadata()) == SKELETON
    rules = [("b", "a", (255, 0, 0))]
    metadata = {"keypoint_names": ["a", "b"], "keypoint_connection_rules": rules}
    assert Skeleton.from_metadata(metadata) == Skeleton(("a", "b"), ((1, 0),))
