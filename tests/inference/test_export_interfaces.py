"""Files with the inputs and outputs of the official exporters: names, order, dtypes and values."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from deim import Predictor
from deim.errors import ConfigError
from deim.inference.export.export import export
from deim.inference.export.formats.tensorrt import trtexec_command
from deim.inference.export.graph import DEIMGraph, FloatGraph, OfficialGraph, RawGraph, example_input
from deim.inference.export.interfaces import network_inputs, relative_outputs
from deim.inference.export.metadata import Metadata
from deim.inference.export.model import prepare_export
from deim.inference.export.options import ExportOptions
from deim.inference.trained_model import load_trained
from tests.inference.conftest import write_checkpoint, write_checkpoint_with_heads
from tests.inference.test_predictor import are_close

SIZE = (64, 96)


def official_postprocessing(logits: Tensor, boxes: Tensor, sizes: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compute labels, boxes and scores as the official postprocessor in deploy mode, for sizes (width, height)."""
    center, side = boxes[..., :2], boxes[..., 2:]
    corners = torch.cat([center - side / 2, center + side / 2], dim=-1) * sizes.repeat(1, 2).unsqueeze(1)
    scores, index = torch.topk(logits.sigmoid().flatten(1), count, dim=-1)
    query = index // logits.shape[2]
    labels = index - query * logits.shape[2]
    return labels, corners.gather(1, query.unsqueeze(-1).repeat(1, 1, 4)), scores


@pytest.fixture(scope="module")
def official_file(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("official") / "model.onnx"
    export(str(checkpoint), None, str(path), ExportOptions(interface="official"))
    return path


def test_official_file_has_the_inputs_and_outputs_of_the_official_exporter(
    official_file: Path, checkpoint: Path
) -> None:
    session = onnxruntime.InferenceSession(official_file, providers=["CPUExecutionProvider"])
    assert [(value.name, value.type, value.shape) for value in session.get_inputs()] == [
        ("images", "tensor(float)", ["N", 3, 128, 128]),
        ("orig_target_sizes", "tensor(int64)", ["N", 2]),
    ]
    assert [(value.name, value.type) for value in session.get_outputs()] == [
        ("labels", "tensor(int64)"),
        ("boxes", "tensor(float)"),
        ("scores", "tensor(float)"),
    ]
    images = example_input(3, (128, 128)).float() / 255
    sizes = torch.tensor([[640, 480], [128, 128], [31, 1000]])
    outputs = session.run(None, {"images": images.numpy(), "orig_target_sizes": sizes.numpy()})
    detector = load_trained(str(checkpoint)).model
    with torch.inference_mode():
        logits, boxes = RawGraph(detector)(images)
    expected = official_postprocessing(logits, boxes, sizes, outputs[0].shape[1])
    for output, tensor in zip(outputs, expected, strict=True):
        assert output.shape == tuple(tensor.shape)
    labels, corners, scores = outputs
    assert (labels == expected[0].numpy()).mean() > 0.99, "rounding may swap equal scores"
    np.testing.assert_allclose(scores, expected[2], atol=1e-5)
    same = labels == expected[0].numpy()
    assert (np.abs(corners - expected[1].numpy()).max(axis=2)[same] < 0.01).mean() > 0.99


def test_predictor_reads_official_files(official_file: Path, checkpoint: Path, photos: Path) -> None:
    expected = Predictor(checkpoint, threshold=0.0, device="cpu").predict(photos)
    detections = Predictor(official_file, threshold=0.0, device="cpu").predict(photos, batch_size=2)
    assert all(are_close(a, b) for a, b in zip(detections, expected, strict=True))


def test_outputs_of_models_with_masks_and_keypoints(tmp_path: Path) -> None:
    """The order of the outputs is that of EdgeCrafter's exporters."""
    images, sizes = torch.rand(1, 3, *SIZE), torch.tensor([[200, 100]])
    for masks, keypoints, names in (
        (True, False, ("labels", "boxes", "scores", "masks")),
        (False, True, ("scores", "labels", "keypoints")),
        (True, True, ("labels", "boxes", "scores", "masks", "keypoints")),
    ):
        path = write_checkpoint_with_heads(tmp_path / "model.pth", masks, keypoints)
        graph = OfficialGraph(load_trained(str(path)).model).eval()
        assert graph.output_names == names
        fields = tuple(f"pred_{field}" for field in graph.fields)
        assert RawGraph(graph.detector).output_names == ("pred_logits", "pred_boxes", *fields)
        with torch.inference_mode():
            outputs = dict(zip(names, graph(images, sizes), strict=True))
            reference = FloatGraph(graph.detector)(images)
        expected = dict(zip(("scores", "labels", "boxes", *graph.fields), reference, strict=True))
        assert outputs["labels"].dtype == torch.int64
        assert torch.equal(outputs["scores"], expected["scores"])
        if keypoints:
            torch.testing.assert_close(outputs["keypoints"], expected["keypoints"] * torch.tensor([200.0, 100.0]))
        if masks:
            torch.testing.assert_close(outputs["masks"], expected["masks"])


def test_boxes_of_files_with_keypoints_enclose_them() -> None:
    metadata = Metadata(
        "0", ["a"], SIZE, False, "RGB", True, "float32", ("scores", "labels", "keypoints"), interface="official"
    )
    points = np.float32([[[[9.6, 6.4], [48, 32], [24, 64]]]])
    outputs = relative_outputs(metadata, [np.float32([[0.5]]), np.int64([[0]]), points], SIZE)
    np.testing.assert_allclose(outputs["keypoints"], [[[[0.1, 0.1], [0.5, 0.5], [0.25, 1.0]]]], rtol=1e-6)
    np.testing.assert_allclose(outputs["boxes"], [[[0.1, 0.1, 0.5, 1.0]]], rtol=1e-6)


def test_normalization_by_the_caller_or_the_graph(tmp_path: Path) -> None:
    """As in the official files, the caller normalizes if the recipe has mean and standard deviation."""
    trained = load_trained(str(write_checkpoint(tmp_path / "model.pth", "ecdet")))
    images = example_input(1, (128, 128)).numpy()
    for include_normalization in (False, True):
        options = ExportOptions(size=(128, 128), interface="official", include_normalization=include_normalization)
        model = prepare_export(trained, options)
        assert (model.metadata.normalization is None) == include_normalization
        inputs = map(torch.from_numpy, network_inputs(model.metadata, images))
        with torch.inference_mode():
            scores, labels, boxes = DEIMGraph(model.graph.detector)(torch.from_numpy(images))
            outputs = [output.numpy() for output in model.graph(*inputs)]
        by_name = relative_outputs(model.metadata, outputs, (128, 128))
        np.testing.assert_allclose(by_name["scores"], scores, atol=1e-4)
        matched = by_name["labels"] == labels.numpy()
        assert matched.mean() > 0.9, "rounding may swap equal scores"
        assert (np.abs(by_name["boxes"] - boxes.numpy()).max(axis=2)[matched] < 1e-3).mean() > 0.9
    assert Metadata.from_json(model.metadata.to_json(), "").interface == "official"


def test_raw_interface(checkpoint: Path) -> None:
    model = prepare_export(load_trained(str(checkpoint)), ExportOptions(size=SIZE, interface="raw"))
    assert model.metadata.outputs == ("pred_logits", "pred_boxes")
    assert not model.metadata.postprocess
    pixels = example_input(1, SIZE)
    with torch.inference_mode():
        expected = DEIMGraph(model.graph.detector, postprocess=False)(pixels)
        outputs = model.graph(pixels.float() / 255)
    for output, tensor in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, tensor, atol=1e-3, rtol=1e-3)


def test_metadata_of_the_default_interface_is_unchanged() -> None:
    text = Metadata("0", ["a"], SIZE, False, "RGB", True, "float32").to_json()
    assert "interface" not in text
    assert Metadata.from_json(text, "").interface == "deim"


def test_engines_of_official_files_have_shapes_of_both_inputs() -> None:
    metadata = Metadata("0", ["a"], SIZE, False, "RGB", True, "float32", interface="official")
    command = trtexec_command("m.onnx", "m.engine", metadata, (1, 4, 16))
    assert command[3] == "--minShapes=images:1x3x64x96,orig_target_sizes:1x2"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interface": "yolo"}, "choose one of deim, official, raw, deepstream"),
        ({"interface": "official", "postprocess": False}, "--raw is an option of the interface deim"),
        ({"include_normalization": True}, "always normalizes in the graph"),
    ],
)
def test_invalid_options_are_errors(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExportOptions(**options).check()
