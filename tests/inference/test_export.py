"""Exported files match torch in ONNX Runtime and OpenVINO for every family; differences are errors."""

import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from onnx.reference import ReferenceEvaluator
from torch import nn

from deim import Predictor
from deim.errors import CheckpointError, ConfigError, ExportError
from deim.inference.export import float16
from deim.inference.export.export import default_attention_form, export
from deim.inference.export.float16 import to_float16
from deim.inference.export.formats.onnx import export_onnx, start_onnx
from deim.inference.export.formats.openvino import to_openvino
from deim.inference.export.formats.tensorrt import build_engine, trtexec_command
from deim.inference.export.graph import DEIMGraph
from deim.inference.export.metadata import Metadata
from deim.inference.export.model import input_size
from deim.inference.export.options import ExportOptions
from deim.inference.export.verification import Agreement, compare_detections
from deim.inference.exported_runner import open_session
from deim.inference.images import as_rgb, iterate_images
from deim.inference.trained_model import load_trained
from deim.layers import RMSNorm
from tests.commands import tool
from tests.conftest import long_except
from tests.inference.conftest import checkpoint_recipe, write_checkpoint
from tests.inference.test_predictor import are_close
from tests.models import FAMILIES


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("family", long_except({"dfine"}, FAMILIES))
def test_families_match_torch_in_onnx_runtime_and_openvino(family: str, tmp_path: Path) -> None:
    trained = load_trained(str(write_checkpoint(tmp_path / "model.pth", family)))
    exported = export_onnx(trained, tmp_path / "model.onnx", ExportOptions(size=(96, 128)))
    to_openvino(tmp_path / "model.onnx", tmp_path / "model.xml", exported.metadata)
    for name in ("model.onnx", "model.xml"):
        session = open_session(str(tmp_path / name), "cpu")
        agreement = compare_detections(exported.graph, session, session.metadata, None)
        assert agreement.batch_shapes == ["1 x 96 x 128", "3 x 96 x 128"]
        assert agreement.num_matched == agreement.num_detections > 0
        assert agreement.max_difference < 1e-4
    # The native operator, because float16 engines find nothing if the normalization is split into several operators.
    has_layer_norm = any(isinstance(module, nn.LayerNorm) for module in exported.graph.modules())
    assert ("LayerNormalization" in operators(tmp_path / "model.onnx")) == has_layer_norm
    graph = onnx.load(tmp_path / "model.onnx").graph
    initializers = {initializer.name for initializer in graph.initializer}
    assert all(node.input[1] in initializers for node in graph.node if node.op_type == "Conv"), (
        "TensorRT requires constant weights"
    )


@pytest.mark.long
# With random weights, rounding changes the selection of queries. At 32 x 32 pixels, the lite encoder has as many tokens as
# the model has queries.
@pytest.mark.parametrize(("family", "size"), [("deimv2", (96, 128)), ("deimv2_lite", (32, 32))])
@pytest.mark.parametrize(("precision", "minimum"), [("float16", 0.95), ("int8", 0.9)])
def test_other_precisions(
    family: str, size: tuple[int, int], precision: str, minimum: float, tmp_path: Path, photos: Path
) -> None:
    trained = load_trained(str(write_checkpoint(tmp_path / "model.pth", family)))
    images = [as_rgb(image) for image in iterate_images(str(photos))]
    exported = export_onnx(trained, tmp_path / "m.onnx", ExportOptions(size=size, precision=precision), images)
    agreement = compare_detections(
        exported.graph, open_session(str(tmp_path / "m.onnx")), exported.metadata, None, images
    )
    assert agreement.num_matched >= minimum * agreement.num_detections > 0


@pytest.mark.long
def test_dynamic_size(checkpoint: Path, tmp_path: Path, photos: Path) -> None:
    lines: list[str] = []
    options = ExportOptions(size=(96, 128), dynamic_size=True)
    export(str(checkpoint), None, str(tmp_path / "model.onnx"), options, log=lines.append)
    assert "1 x 320 x 448, 3 x 320 x 448" in lines[0]
    detections = Predictor(tmp_path / "model.onnx", threshold=0.0, device="cpu").predict(photos)
    assert [image_detections.image_size for image_detections in detections] == [
        (96, 128),
        (128, 96),
        (96, 96),
        (200, 160),
        (64, 300),
    ]


@pytest.mark.long
@pytest.mark.parametrize("family", ["dfine", "deformable", "deimv2_lite"])
def test_gather_attention(family: str, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model.pth", family)
    lines: list[str] = []
    options = ExportOptions(size=(64, 96), attention="gather", dynamic_batch=False, batch=2)
    export(str(path), None, str(tmp_path / "model.onnx"), options, log=lines.append)
    assert "GridSample" not in operators(tmp_path / "model.onnx")
    assert lines[0].endswith("batches: 2 x 64 x 96")


def test_raw_outputs(checkpoint: Path, tmp_path: Path) -> None:
    options = ExportOptions(size=(64, 64), postprocess=False, dynamic_batch=False)
    export(str(checkpoint), None, str(tmp_path / "model.onnx"), options)
    session = open_session(str(tmp_path / "model.onnx"), "cpu")
    logits, boxes = session(np.zeros((1, 3, 64, 64), np.uint8))
    assert (logits.shape, boxes.shape) == ((1, 20, 6), (1, 20, 4))
    with pytest.raises(ConfigError, match="returns logits instead of detections"):
        Predictor(tmp_path / "model.onnx")


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the checkpoint with default options: the image size of the recipe, float32."""
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export(str(checkpoint), None, str(path), ExportOptions())
    return path


def test_exported_file_predicts_same_as_checkpoint(
    exported: Path, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    metadata = Metadata.from_json(open_session(str(exported)).metadata.to_json(), "")
    to_openvino(exported, tmp_path / "model.xml", metadata)
    expected = Predictor(checkpoint, threshold=0.0, device="cpu").predict(photos)
    for path in (exported, tmp_path / "model.xml"):
        predictor = Predictor(path, threshold=0.0, device="cpu")
        detections = predictor.predict(photos, batch_size=3)
        assert all(are_close(a, b) for a, b in zip(detections, expected, strict=True))
        assert predictor.class_names == expected[0].class_names
    with pytest.raises(ConfigError, match=r"OpenVINO cannot compile .*model\.xml for device UNKNOWN"):
        Predictor(tmp_path / "model.xml", device="unknown")


def test_onnx_runtime_uses_the_requested_gpu_or_fails(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime of the tests has no CUDA; like the GPU build without CUDA libraries, it falls back to the CPU."""
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    assert open_session(str(exported)).description == "ONNX Runtime on cpu"
    with pytest.raises(ConfigError, match="ONNX Runtime cannot use cuda:1"):
        open_session(str(exported), "cuda:1")
    with pytest.raises(ConfigError, match="device 'cuda:first' is not available"):
        open_session(str(exported), "cuda:first")
    requested: list = []
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, options, providers: requested.append(providers[0])
    )
    start_onnx(str(exported), 1)
    start_onnx(str(exported))
    assert requested == [("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"]


def test_float16_halves_file_size(exported: Path, checkpoint: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    export(str(checkpoint), None, str(tmp_path / "half.onnx"), ExportOptions(precision="float16"), log=lines.append)
    assert (tmp_path / "half.onnx").stat().st_size < 0.65 * exported.stat().st_size
    session = open_session(str(tmp_path / "half.onnx"), "cpu")
    assert session.metadata.dtype == "float16"
    assert session(np.zeros((1, 3, 128, 128), np.uint8))[0].dtype == np.float32


def test_int8_quantizes_only_convolutions(exported: Path, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    images = [as_rgb(image) for image in iterate_images(str(photos))]
    options = ExportOptions(size=(96, 128), precision="int8")
    quantized = export_onnx(load_trained(str(checkpoint)), tmp_path / "int8.onnx", options, images)
    assert quantized.path.stat().st_size < 0.75 * exported.stat().st_size
    graph = onnx.load(quantized.path).graph
    producers = {name: node.op_type for node in graph.node for name in node.output}
    input_types: dict[str, set[str | None]] = defaultdict(set)
    for node in graph.node:
        input_types[node.op_type] |= {producers.get(name) for name in node.input}
    assert input_types["Conv"] == {"DequantizeLinear"}
    assert (
        "DequantizeLinear" not in input_types["MatMul"] | input_types["LayerNormalization"] | input_types["GridSample"]
    )
    for suffix in ("onnx", "xml"):
        if suffix == "xml":
            to_openvino(quantized.path, tmp_path / "int8.xml", quantized.metadata)
        session = open_session(str(tmp_path / f"int8.{suffix}"), "cpu")
        assert session.metadata.dtype == "int8"
        agreement = compare_detections(quantized.graph, session, session.metadata, None, images)
        assert agreement.num_matched > 0.5 * agreement.num_detections > 0, "with random weights, all scores are similar"


def test_int8_requires_images_and_rejects_tensorrt(checkpoint: Path, tmp_path: Path) -> None:
    options = ExportOptions(size=(64, 64), precision="int8")
    with pytest.raises(ConfigError, match=r"int8 requires calibration images .*--images"):
        export(str(checkpoint), None, str(tmp_path / "m.onnx"), options)
    with pytest.raises(ConfigError, match="TensorRT quantizes float32 files itself"):
        export(str(checkpoint), None, str(tmp_path / "m.engine"), options)
    assert list(tmp_path.iterdir()) == []


class LargeValues(nn.Module):
    """Model whose intermediate values exceed float16 while its output does not."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images.float() * 1000.0 + 1e5) / 1e5


def test_float16_overflow_stays_in_float32(tmp_path: Path) -> None:
    program = torch.onnx.export(
        LargeValues().eval(), (torch.zeros(1, 3, 32, 32, dtype=torch.uint8),), dynamo=True, verbose=False
    )
    program.model.metadata_props["deim"] = Metadata("0", ["a"], (32, 32), False, "RGB", True, "float32").to_json()
    program.save(str(tmp_path / "large.onnx"))
    images = np.full((1, 3, 32, 32), 200, np.uint8)
    expected = open_session(str(tmp_path / "large.onnx"))(images)[0]
    to_float16(tmp_path / "large.onnx", {"images": images})
    assert open_session(str(tmp_path / "large.onnx"))(images)[0] == pytest.approx(expected, rel=1e-3)


class Normalized(nn.Module):
    """RMSNorm of values up to 255 x 40."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = RMSNorm(32)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(images.float() * 40.0)


def test_root_mean_squares_stay_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The squares overflow float16. The conversion keeps them in float32 even if it finds no large values in its trial run.

    ONNX's reference implementation computes in float16; ONNX Runtime on a CPU does not.
    """
    example = (torch.zeros(1, 3, 32, 32, dtype=torch.uint8),)
    torch.onnx.export(Normalized().eval(), example, dynamo=True, verbose=False, opset_version=18).save(
        str(tmp_path / "large.onnx")
    )
    images = np.random.default_rng(0).integers(256, size=(1, 3, 32, 32), dtype=np.uint8)
    (name,) = [value.name for value in onnx.load(tmp_path / "large.onnx").graph.input]
    (expected,) = ReferenceEvaluator(str(tmp_path / "large.onnx")).run(None, {name: images})
    monkeypatch.setattr(float16, "_large_values", lambda model, example: set())
    to_float16(tmp_path / "large.onnx", {})
    (converted,) = ReferenceEvaluator(str(tmp_path / "large.onnx")).run(None, {name: images})
    np.testing.assert_allclose(converted, expected, atol=2e-3)


def test_detection_indices_use_integer_division(exported: Path) -> None:
    """Check that no float division computes indices: float16 does not represent all integers beyond 2048."""
    graph = onnx.load(exported).graph
    operators_after_selection = [node.op_type for node in graph.node][
        max(i for i, n in enumerate(graph.node) if n.op_type == "TopK") :
    ]
    assert "Floor" not in operators_after_selection


def test_agreement_check_fails_on_different_detections() -> None:
    Agreement(40, 40, 5e-4, []).check("a.onnx", "float32")
    Agreement(40, 39, 2e-2, []).check("a.onnx", "float16")
    for agreement in (Agreement(40, 39, 0.0, []), Agreement(40, 40, 2e-3, [])):
        with pytest.raises(ExportError, match="its detections differ from those of torch"):
            agreement.check("a.onnx", "float32")


def test_comparison_detects_different_scores_boxes_and_classes(checkpoint: Path) -> None:
    trained = load_trained(str(checkpoint))
    graph = DEIMGraph(trained.model)
    metadata = Metadata("0", trained.class_names, (64, 64), False, "RGB", True, "float32")

    def compare_perturbed(scores: float = 0.0, labels: int = 0, boxes: float = 0.0) -> Agreement:
        def session(images: np.ndarray) -> list[np.ndarray]:
            with torch.inference_mode():
                outputs = [output.numpy() for output in graph(torch.from_numpy(images))]
            return [outputs[0] + scores, (outputs[1] + labels) % 6, outputs[2] + boxes]

        return compare_detections(graph, session, metadata, 1)

    assert compare_perturbed() == Agreement(30, 30, 0.0, ["1 x 64 x 64"]), "ten detections in each of three images"
    assert compare_perturbed(scores=0.01).max_difference == pytest.approx(0.01, abs=1e-6)
    for agreement in (compare_perturbed(scores=0.01), compare_perturbed(labels=1), compare_perturbed(boxes=0.5)):
        with pytest.raises(ExportError):
            agreement.check("a.onnx", "float32")


def test_input_size_of_recipe() -> None:
    assert input_size(checkpoint_recipe("dfine")) == (128, 128)
    assert input_size(checkpoint_recipe("deformable")) == (128, 128)
    with pytest.raises(ConfigError, match="does not define the size of test images"):
        input_size(OmegaConf.create({"dataloader": {"test": {"mapper": {"augmentation": []}}}}))
    assert input_size(recipe_with(shape=64)) == (64, 64)
    assert input_size(recipe_with(short_edge_length=[100], max_size=200)) == (128, 128)
    with pytest.raises(ConfigError, match="600 x 640 pixels, not multiples of 32: set another size with --size"):
        input_size(recipe_with(shape=[600, 640]))


def recipe_with(**augmentation: object) -> DictConfig:
    """Return a config with one augmentation of test images."""
    return OmegaConf.create({"dataloader": {"test": {"mapper": {"augmentations": [augmentation]}}}})


def test_old_torch_is_an_error(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.6.0+cpu")
    with pytest.raises(ConfigError, match=r"requires torch 2\.8 or later, but this is 2\.6\.0\+cpu"):
        export(str(checkpoint), None, str(tmp_path / "m.onnx"), ExportOptions())


INVALID_OPTIONS = {
    "size": (ExportOptions(size=(100, 128)), "m.onnx", "must be multiples of 32"),
    "attention": (ExportOptions(attention="nearby"), "m.onnx", "choose one of grid_sample, gather, plugin"),
    "opset": (ExportOptions(opset=11), "m.onnx", "choose one from 18 to 23"),
    "precision": (ExportOptions(precision="float8"), "m.onnx", "choose one of float32, float16, int8"),
    "batch": (ExportOptions(batch=0), "m.onnx", "batch=0"),
    "format": (ExportOptions(), "m.weights", r"choose one of .onnx, .xml, .engine"),
    "engine": (
        ExportOptions(dynamic_size=True),
        "m.engine",
        "have a fixed image size: omit --dynamic-size; export .onnx or .xml",
    ),
}


@pytest.mark.parametrize("case", INVALID_OPTIONS)
def test_invalid_options_are_errors(case: str, checkpoint: Path, tmp_path: Path) -> None:
    options, name, message = INVALID_OPTIONS[case]
    with pytest.raises(ConfigError, match=message):
        export(str(checkpoint), None, str(tmp_path / name), options)
    assert list(tmp_path.iterdir()) == []


def test_foreign_and_broken_files_are_errors(tmp_path: Path) -> None:
    program = torch.onnx.export(
        LargeValues().eval(), (torch.zeros(1, 3, 32, 32, dtype=torch.uint8),), dynamo=True, verbose=False
    )
    program.save(str(tmp_path / "other.onnx"))
    with pytest.raises(CheckpointError, match=r"was not made by deim export"):
        Predictor(tmp_path / "other.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match=r"broken\.onnx cannot be opened"):
        Predictor(tmp_path / "broken.onnx")


def fake_trtexec(folder: Path, status: int) -> None:
    """Write a fake ``trtexec`` that writes the requested engine file and exits with ``status``."""
    script = folder / "trtexec"
    script.write_text(
        '#!/bin/sh\nfor word in "$@"; do case $word in --saveEngine=*) echo engine > "${word#*=}";; esac; done\n'
        f"echo no memory >&2; exit {status}\n"
    )
    script.chmod(0o755)


def test_engine_is_built_with_trtexec(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_trtexec(tmp_path, 0)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    options = ExportOptions(size=(64, 64), attention=default_attention_form("m.engine"))
    engine = str(tmp_path / "m.engine")
    export(str(checkpoint), None, engine, options)
    assert "GridSample" not in operators(tmp_path / "m.engine.onnx")
    assert not (tmp_path / "m.onnx").exists(), "a file of the user may have this name"
    assert Path(engine).read_text(encoding="utf-8") == "engine\n"
    metadata = Metadata.from_json(Path(engine + ".json").read_text(encoding="utf-8"), engine)
    assert list(metadata.size) == [64, 64]
    command = trtexec_command(tmp_path / "m.onnx", engine, metadata, (1, 4, 16))
    assert command[3:] == [
        f"--{name}Shapes=images:{count}x3x64x64" for name, count in (("min", 1), ("opt", 4), ("max", 16))
    ]
    fake_trtexec(tmp_path, 1)
    with pytest.raises(ConfigError, match="failed:\nno memory"):
        build_engine(command)
    (tmp_path / "trtexec").unlink()
    with pytest.raises(ConfigError, match=f"trtexec is not installed.*\n  trtexec --onnx={tmp_path}/m.onnx"):
        build_engine(command)
    with pytest.raises(ConfigError, match=r"\n  trtexec '--onnx=my models/m\.onnx'"):
        build_engine(["trtexec", "--onnx=my models/m.onnx"])


def test_export_tool(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "m.onnx")
    process = tool("export.py", str(checkpoint), "--output", output, "--batch", "1", "--images", str(photos))
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith(f"wrote {output} (")
    assert os.path.getsize(output) > 1e6
    # Images in batches of eight by default, although the batch size of the file is one.
    expected = Predictor(checkpoint, threshold=0.0, device="cpu").predict(photos)
    detections = Predictor(output, threshold=0.0, device="cpu").predict(photos)
    assert all(are_close(a, b) for a, b in zip(detections, expected, strict=True))
    failed_process = tool("export.py", "nowhere.pth", "--output", output)
    assert failed_process.returncode == 2
    assert "nowhere.pth does not exist" in failed_process.stderr
