"""Folders for inference servers: the configuration of Triton and DeepStream agrees with the exported file."""

import configparser
import json
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch

from deim import Predictor
from deim.data.datasets.shapes import CLASSES
from deim.errors import ConfigError
from deim.inference.export.graph import DeepStreamGraph, RawGraph
from deim.inference.export.metadata import Metadata
from deim.inference.export.options import ExportOptions
from deim.inference.export.servers import export_for_server
from deim.inference.export.servers.file import FileDescription, TensorDescription
from deim.inference.export.servers.triton import model_config
from deim.inference.trained_model import load_trained
from tests.commands import tool
from tests.inference.conftest import write_checkpoint, write_checkpoint_with_heads

SIZE = (128, 128)
# Name of ONNX Runtime's type, by that of Triton's.
DTYPES = {"TYPE_UINT8": "tensor(uint8)", "TYPE_INT64": "tensor(int64)", "TYPE_FP32": "tensor(float)"}


def parse_triton(path: Path):
    """Parse a configuration with Triton's own protocol buffers."""
    model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    text_format = pytest.importorskip("google.protobuf.text_format")
    return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


@pytest.fixture(scope="module")
def deepstream(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deepstream")
    export_for_server("deepstream", str(checkpoint), None, str(folder), ExportOptions(interface="deepstream"))
    return folder


@pytest.fixture(scope="module")
def triton(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "street"
    process = tool("export.py", str(checkpoint), "--for", "triton", "--output", str(folder))
    assert process.returncode == 0, process.stderr
    assert f"tritonserver --model-repository={folder.parent} serves the model 'street'" in process.stdout
    return folder


def test_triton_configuration_agrees_with_the_file(triton: Path) -> None:
    config = parse_triton(triton / "config.pbtxt")
    assert (config.name, config.backend) == ("street", "onnxruntime")
    assert config.max_batch_size > 1
    assert config.HasField("dynamic_batching")
    session = onnxruntime.InferenceSession(triton / "1/model.onnx", providers=["CPUExecutionProvider"])
    for configured, in_file in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        described = [(value.name, value.type, value.shape[1:]) for value in in_file]
        assert described
        assert all(value.shape[0] == "N" for value in in_file), "Triton adds the first dimension"
        types = model_types(config)
        assert [(value.name, DTYPES[types[value.data_type]], list(value.dims)) for value in configured] == described
    metadata = json.loads(config.parameters["deim"].string_value)
    assert metadata["class_names"] == list(CLASSES)
    assert (triton / "labels.txt").read_text(encoding="utf-8").splitlines() == list(CLASSES)


def model_types(config) -> dict[int, str]:
    """Return the names of the dtypes of a parsed configuration."""
    return {
        value.number: value.name for value in config.input[0].DESCRIPTOR.fields_by_name["data_type"].enum_type.values
    }


def describe(batch: int | None) -> FileDescription:
    metadata = Metadata("0", ['a "quoted" \\ name\nof two lines', "中文"], SIZE, True, "RGB", True, "float32")
    return FileDescription(
        [TensorDescription("images", "UINT8", (batch, 3, None, None))],
        [TensorDescription("scores", "FLOAT", (batch, 300))],
        metadata,
    )


def test_triton_configuration_as_text() -> None:
    """Independent of Triton's package."""
    text = model_config("street", describe(None))
    assert 'name: "images"\n  data_type: TYPE_UINT8\n  dims: [ 3, -1, -1 ]' in text
    assert 'name: "scores"\n  data_type: TYPE_FP32\n  dims: [ 300 ]' in text
    fixed = model_config("street", describe(4))
    assert "max_batch_size: 0\n" in fixed
    assert "dims: [ 4, 3, -1, -1 ]" in fixed
    assert "dynamic_batching" not in fixed


def test_any_class_name_survives_the_configuration_of_triton(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text(model_config("a", describe(None)), encoding="utf-8")
    config = parse_triton(tmp_path / "config.pbtxt")
    assert json.loads(config.parameters["deim"].string_value)["class_names"] == describe(None).metadata.class_names


def nvinfer(config: configparser.ConfigParser, frame: np.ndarray) -> np.ndarray:
    """Return the input of the network for a BGR frame, as Gst-nvinfer computes it: y = net-scale-factor * (x - mean)."""
    assert config["property"]["model-color-format"] == "0", "RGB"
    assert config["property"]["maintain-aspect-ratio"] == "0"
    assert "offsets" not in config["property"]
    pixels = cv2.cvtColor(cv2.resize(frame, SIZE[::-1]), cv2.COLOR_BGR2RGB).transpose(2, 0, 1)[None]
    return pixels.astype(np.float32) * np.float32(config["property"]["net-scale-factor"])


def parse_deepstream(output: np.ndarray, size: tuple[int, int], thresholds: list[float]) -> list[tuple]:
    """Read a tensor as the parser of DeepStream-Yolo does: rows of left, top, right, bottom, score and class.

    Args:
        output: (Q, 6), without the dimension of the batch.
        size: (height, width) of the network.
        thresholds: minimum score per class.

    Returns:
        (class, score, left, top, width, height) of every object of at least one pixel.
    """
    objects = []
    for left, top, right, bottom, score, label in output:
        left, right = (min(max(side, 0), size[1]) for side in (left, right))
        top, bottom = (min(max(side, 0), size[0]) for side in (top, bottom))
        if score >= thresholds[int(label)] and right - left >= 1 and bottom - top >= 1:
            objects.append((int(label), score, left, top, right - left, bottom - top))
    return objects


def test_deepstream_parser_finds_the_detections_of_the_predictor(
    deepstream: Path, checkpoint: Path, photos: Path
) -> None:
    config = configparser.ConfigParser()
    config.read(deepstream / "config_infer_primary.txt")
    session = onnxruntime.InferenceSession(
        deepstream / config["property"]["onnx-file"], providers=["CPUExecutionProvider"]
    )
    assert [(value.name, value.type, value.shape) for value in session.get_inputs()] == [
        ("input", "tensor(float)", ["N", 3, *SIZE])
    ]
    assert [(value.name, value.type) for value in session.get_outputs()] == [("output", "tensor(float)")]
    image = photos / "0.png"
    frame = cv2.imread(str(image))
    (output,) = session.run(None, {"input": nvinfer(config, frame)})
    assert output.shape == (1, int(config["class-attrs-all"]["topk"]), 6)
    objects = parse_deepstream(output[0], SIZE, [0.0] * int(config["property"]["num-detected-classes"]))
    (expected,) = Predictor(checkpoint, threshold=0.0, device="cpu").predict(image)
    height, width = frame.shape[:2]
    scale = np.array([width, height] * 2) / np.array([SIZE[1], SIZE[0]] * 2)
    num_matched = 0
    for label, score, left, top, box_width, box_height in objects:
        box = np.array([left, top, left + box_width, top + box_height]) * scale
        same = (expected.pred_classes == label) & ((expected.scores - score).abs() < 1e-3)
        distances = (expected.pred_boxes.tensor - torch.from_numpy(box)).abs().amax(dim=1)
        num_matched += bool((distances[same] < 0.2).any())
    assert num_matched == len(objects) > 5


def test_deepstream_configuration(deepstream: Path) -> None:
    config = configparser.ConfigParser()
    config.read(deepstream / "config_infer_primary.txt")
    keys = config["property"]
    assert (deepstream / keys["labelfile-path"]).read_text(encoding="utf-8").splitlines() == list(CLASSES)
    assert int(keys["num-detected-classes"]) == len(CLASSES)
    assert (keys["network-type"], keys["cluster-mode"], keys["network-mode"]) == ("0", "4", "0")
    assert keys["parse-bbox-func-name"] == "NvDsInferParseYolo"


def test_predictor_reads_deepstream_files(deepstream: Path, checkpoint: Path, photos: Path) -> None:
    """A query has one class in these files, but every class in the predictor, so only the best detections agree."""
    expected = Predictor(checkpoint, threshold=0.0, device="cpu").predict(photos)
    detections = Predictor(deepstream / "model.onnx", threshold=0.0, device="cpu").predict(photos, batch_size=2)
    for found, reference in zip(detections, expected, strict=True):
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
        torch.testing.assert_close(found.scores[0], reference.scores[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(found.pred_boxes.tensor[0], reference.pred_boxes.tensor[0], atol=0.1, rtol=0)


@pytest.mark.parametrize("family", ["ecdet", "heads"])
def test_deepstream_graph_normalizes_and_returns_boxes_only(family: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    write_checkpoint_with_heads(path) if family == "heads" else write_checkpoint(path, family)
    detector = load_trained(str(path)).model
    images = torch.rand(2, 3, 96, 128) if family == "heads" else torch.rand(2, 3, *SIZE)
    with torch.inference_mode():
        (output,) = DeepStreamGraph(detector)(images)
        logits, boxes = RawGraph(detector, include_normalization=True)(images)[:2]
    scores, labels = logits.sigmoid().max(dim=-1)
    height, width = images.shape[-2:]
    corners = torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], dim=-1)
    expected = corners * torch.tensor([width, height, width, height])
    torch.testing.assert_close(output, torch.cat([expected, scores[..., None], labels[..., None].float()], dim=-1))


@pytest.mark.parametrize(
    ("server", "folder", "options", "message"),
    [
        ("triton", "a", {"interface": "deepstream"}, "triton does not read files of the interface deepstream"),
        ("deepstream", "a", {}, "deepstream does not read files of the interface deim: choose deepstream"),
        ("triton", "a.onnx", {}, "files for triton are written into a folder"),
        ("deepstream", "a", {"interface": "deepstream", "dynamic_size": True}, "omit --dynamic-size"),
        ("deepstream", "a", {"interface": "deepstream", "precision": "int8"}, "calibrates int8 engines itself"),
        ("deepstream", "a", {"interface": "deepstream", "include_normalization": True}, "always normalizes"),
    ],
)
def test_unsupported_options_are_errors(
    server: str, folder: str, options: dict, message: str, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        export_for_server(server, str(checkpoint), None, str(tmp_path / folder), ExportOptions(**options))
