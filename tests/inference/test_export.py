"""Exported files: every family, in ONNX Runtime and in OpenVINO, finds what torch finds; and what does not is told."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from deim import Predictor
from deim.errors import CheckpointError, ConfigError, ExportError
from deim.inference.export import exporting
from deim.inference.export.checking import Agreement, compare
from deim.inference.export.graph import DEIMGraph
from deim.inference.export.half import to_half
from deim.inference.export.metadata import Metadata
from deim.inference.export.onnx import ExportOptions, export_onnx, input_size
from deim.inference.export.openvino import to_openvino
from deim.inference.export.tensorrt import build_engine, trtexec_command
from deim.inference.exported import open_session
from deim.inference.pictures import as_rgb, listed
from deim.inference.source import load_trained
from tests.commands import tool
from tests.conftest import long_except
from tests.inference.conftest import checkpoint_recipe, write_checkpoint
from tests.inference.test_predictor import same
from tests.models import FAMILIES


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("family", long_except({"dfine"}, FAMILIES))
def test_every_family_runs_in_onnx_runtime_and_openvino(family: str, tmp_path: Path) -> None:
    trained = load_trained(str(write_checkpoint(tmp_path / "model.pth", family)))
    exported = export_onnx(trained, tmp_path / "model.onnx", ExportOptions(size=(96, 128)))
    to_openvino(tmp_path / "model.onnx", tmp_path / "model.xml", exported.metadata)
    for name in ("model.onnx", "model.xml"):
        session = open_session(str(tmp_path / name), "cpu")
        agreement = compare(exported.graph, session, session.metadata, None)
        assert agreement.batches == ["1 x 96 x 128", "3 x 96 x 128"]
        assert agreement.found == agreement.kept > 0
        assert agreement.difference < 1e-4
    # native, since fp16 engines find nothing with a norm in pieces
    assert "LayerNormalization" in operators(tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    stored = {one.name for one in graph.initializer}
    assert all(node.input[1] in stored for node in graph.node if node.op_type == "Conv"), "as TensorRT wants it"


@pytest.mark.long
def test_images_of_any_size(checkpoint: Path, tmp_path: Path, photos: Path) -> None:
    lines: list[str] = []
    options = ExportOptions(size=(96, 128), dynamic_size=True)
    exporting.export(str(checkpoint), None, str(tmp_path / "model.onnx"), options, tell=lines.append)
    assert "1 x 320 x 448, 3 x 320 x 448" in lines[0]
    found = Predictor(tmp_path / "model.onnx", threshold=0.0, device="cpu").predict(photos)
    assert [one.image_size for one in found] == [(96, 128), (128, 96), (96, 96), (200, 160), (64, 300)]


@pytest.mark.long
@pytest.mark.parametrize("family", ["dfine", "deformable"])
def test_without_grid_sampling(family: str, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model.pth", family)
    lines: list[str] = []
    options = ExportOptions(size=(64, 96), attention="gather", dynamic_batch=False, batch=2)
    exporting.export(str(path), None, str(tmp_path / "model.onnx"), options, tell=lines.append)
    assert "GridSample" not in operators(tmp_path / "model.onnx")
    assert lines[0].endswith("images: 2 x 64 x 96")


def test_logits_and_boxes_of_all_queries(checkpoint: Path, tmp_path: Path) -> None:
    options = ExportOptions(size=(64, 64), postprocess=False, dynamic_batch=False)
    exporting.export(str(checkpoint), None, str(tmp_path / "model.onnx"), options)
    session = open_session(str(tmp_path / "model.onnx"), "cpu")
    logits, boxes = session(np.zeros((1, 3, 64, 64), np.uint8))
    assert (logits.shape, boxes.shape) == ((1, 20, 6), (1, 20, 4))
    with pytest.raises(ConfigError, match="returns logits instead of detections"):
        Predictor(tmp_path / "model.onnx")


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe's own size, in float32."""
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    exporting.export(str(checkpoint), None, str(path), ExportOptions())
    return path


def test_an_exported_file_alone_predicts_what_its_checkpoint_does(
    exported: Path, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    said = Metadata.from_json(open_session(str(exported)).metadata.to_json(), "")
    to_openvino(exported, tmp_path / "model.xml", said)
    wanted = Predictor(checkpoint, threshold=0.0, device="cpu").predict(photos)
    for path in (exported, tmp_path / "model.xml"):
        predictor = Predictor(path, threshold=0.0, device="cpu")
        found = predictor.predict(photos, batch_size=3)
        assert all(same(a, b) for a, b in zip(found, wanted, strict=True))
        assert predictor.class_names == wanted[0].class_names


def test_float16_finds_the_same_and_is_half_as_large(exported: Path, checkpoint: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    exporting.export(
        str(checkpoint), None, str(tmp_path / "half.onnx"), ExportOptions(precision="float16"), tell=lines.append
    )
    assert (tmp_path / "half.onnx").stat().st_size < 0.65 * exported.stat().st_size
    session = open_session(str(tmp_path / "half.onnx"), "cpu")
    assert session.metadata.dtype == "float16"
    assert session(np.zeros((1, 3, 128, 128), np.uint8))[0].dtype == np.float32


def test_int8_keeps_all_but_convolutions_in_float32(
    exported: Path, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    pictures = [as_rgb(one) for one in listed(str(photos))]
    options = ExportOptions(size=(96, 128), precision="int8")
    small = export_onnx(load_trained(str(checkpoint)), tmp_path / "int8.onnx", options, pictures)
    assert small.path.stat().st_size < 0.75 * exported.stat().st_size
    graph = onnx.load(small.path).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    taken = {node.op_type: {made_by.get(name) for name in node.input} for node in graph.node}
    assert taken["Conv"] == {"DequantizeLinear"}
    assert "DequantizeLinear" not in taken["MatMul"] | taken["LayerNormalization"] | taken["GridSample"]
    for suffix in ("onnx", "xml"):
        if suffix == "xml":
            to_openvino(small.path, tmp_path / "int8.xml", small.metadata)
        session = open_session(str(tmp_path / f"int8.{suffix}"), "cpu")
        assert session.metadata.dtype == "int8"
        agreement = compare(small.graph, session, session.metadata, None, pictures)
        assert agreement.found > 0.5 * agreement.kept > 0, "with random weights all scores are alike"


def test_int8_needs_pictures_and_is_not_for_tensorrt(checkpoint: Path, tmp_path: Path) -> None:
    options = ExportOptions(size=(64, 64), precision="int8")
    with pytest.raises(ConfigError, match=r"int8 requires calibration images .*--images"):
        exporting.export(str(checkpoint), None, str(tmp_path / "m.onnx"), options)
    with pytest.raises(ConfigError, match="TensorRT quantizes float32 files itself"):
        exporting.export(str(checkpoint), None, str(tmp_path / "m.engine"), options)
    assert list(tmp_path.iterdir()) == []


class Large(nn.Module):
    """Its values are beyond float16, its result is not."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images.float() * 1000.0 + 1e5) / 1e5


def test_what_overflows_float16_is_computed_in_float32(tmp_path: Path) -> None:
    program = torch.onnx.export(
        Large().eval(), (torch.zeros(1, 3, 32, 32, dtype=torch.uint8),), dynamo=True, verbose=False
    )
    program.model.metadata_props["deim"] = Metadata("0", ["a"], (32, 32), False, "RGB", True, "float32").to_json()
    program.save(str(tmp_path / "large.onnx"))
    images = np.full((1, 3, 32, 32), 200, np.uint8)
    wanted = open_session(str(tmp_path / "large.onnx"))(images)[0]
    to_half(tmp_path / "large.onnx")
    assert open_session(str(tmp_path / "large.onnx"))(images)[0] == pytest.approx(wanted, rel=1e-3)


def test_the_choice_of_detections_is_in_whole_numbers(exported: Path) -> None:
    """A division of floats would be one of float16 in an engine, where indices beyond 2048 are not told apart."""
    graph = onnx.load(exported).graph
    after = [node.op_type for node in graph.node][max(i for i, n in enumerate(graph.node) if n.op_type == "TopK") :]
    assert "Floor" not in after


def test_a_file_that_finds_something_else_is_no_success() -> None:
    Agreement(40, 40, 5e-4, []).check("a.onnx", "float32")
    Agreement(40, 39, 2e-2, []).check("a.onnx", "float16")
    for agreement in (Agreement(40, 39, 0.0, []), Agreement(40, 40, 2e-3, [])):
        with pytest.raises(ExportError, match="its detections differ from those of torch"):
            agreement.check("a.onnx", "float32")


def test_the_comparison_sees_other_scores_boxes_and_classes(checkpoint: Path) -> None:
    trained = load_trained(str(checkpoint))
    graph = DEIMGraph(trained.model)
    metadata = Metadata("0", trained.class_names, (64, 64), False, "RGB", True, "float32")

    def changed(scores: float = 0.0, labels: int = 0, boxes: float = 0.0) -> Agreement:
        def session(images: np.ndarray) -> list[np.ndarray]:
            with torch.inference_mode():
                found = [one.numpy() for one in graph(torch.from_numpy(images))]
            return [found[0] + scores, (found[1] + labels) % 6, found[2] + boxes]

        return compare(graph, session, metadata, 1)

    assert changed() == Agreement(30, 30, 0.0, ["1 x 64 x 64"]), "ten of each of three pictures"
    assert changed(scores=0.01).difference == pytest.approx(0.01, abs=1e-6)
    for other in (changed(scores=0.01), changed(labels=1), changed(boxes=0.5)):
        with pytest.raises(ExportError):
            other.check("a.onnx", "float32")


def test_the_size_is_that_of_the_recipes_test_images() -> None:
    assert input_size(checkpoint_recipe("dfine")) == (128, 128)
    assert input_size(checkpoint_recipe("deformable")) == (128, 128)
    with pytest.raises(ConfigError, match="does not define the size of test images"):
        input_size(OmegaConf.create({"dataloader": {"test": {"mapper": {"augmentation": []}}}}))


def test_an_older_torch_is_told(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.6.0+cpu")
    with pytest.raises(ConfigError, match=r"requires torch 2\.8 or later, but this is 2\.6\.0\+cpu"):
        exporting.export(str(checkpoint), None, str(tmp_path / "m.onnx"), ExportOptions())


MISTAKES = {
    "size": (ExportOptions(size=(100, 128)), "m.onnx", "must be multiples of 32"),
    "attention": (ExportOptions(attention="nearby"), "m.onnx", "choose one of grid_sample, gather, plugin"),
    "opset": (ExportOptions(opset=11), "m.onnx", "choose one from 18 to 23"),
    "precision": (ExportOptions(precision="float8"), "m.onnx", "choose one of float32, float16, int8"),
    "batch": (ExportOptions(batch=0), "m.onnx", "batch=0"),
    "format": (ExportOptions(), "m.tflite", r"choose one of .onnx, .xml, .engine"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_options_without_sense_are_told(mistake: str, checkpoint: Path, tmp_path: Path) -> None:
    options, name, message = MISTAKES[mistake]
    with pytest.raises(ConfigError, match=message):
        exporting.export(str(checkpoint), None, str(tmp_path / name), options)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_others_is_told(tmp_path: Path) -> None:
    program = torch.onnx.export(
        Large().eval(), (torch.zeros(1, 3, 32, 32, dtype=torch.uint8),), dynamo=True, verbose=False
    )
    program.save(str(tmp_path / "other.onnx"))
    with pytest.raises(CheckpointError, match=r"was not made by deim export"):
        Predictor(tmp_path / "other.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match=r"broken\.onnx cannot be opened"):
        Predictor(tmp_path / "broken.onnx")


def fake_trtexec(folder: Path, status: int) -> None:
    """A command that writes the engine that it is told to, or fails."""
    script = folder / "trtexec"
    script.write_text(
        '#!/bin/sh\nfor word in "$@"; do case $word in --saveEngine=*) echo engine > "${word#*=}";; esac; done\n'
        f"echo no memory >&2; exit {status}\n"
    )
    script.chmod(0o755)


def test_an_engine_is_built_where_trtexec_is(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_trtexec(tmp_path, 0)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    options = ExportOptions(size=(64, 64), attention=exporting.usual_attention("m.engine"))
    engine = str(tmp_path / "m.engine")
    exporting.export(str(checkpoint), None, engine, options)
    assert "GridSample" not in operators(tmp_path / "m.onnx")
    assert Path(engine).read_text(encoding="utf-8") == "engine\n"
    said = Metadata.from_json(Path(engine + ".json").read_text(encoding="utf-8"), engine)
    assert list(said.size) == [64, 64]
    command = trtexec_command(tmp_path / "m.onnx", engine, said, (1, 4, 16))
    assert command[3:] == [
        f"--{name}Shapes=images:{count}x3x64x64" for name, count in (("min", 1), ("opt", 4), ("max", 16))
    ]
    fake_trtexec(tmp_path, 1)
    with pytest.raises(ConfigError, match="failed:\nno memory"):
        build_engine(command)
    (tmp_path / "trtexec").unlink()
    with pytest.raises(ConfigError, match=f"trtexec is not installed.*\n  trtexec --onnx={tmp_path}/m.onnx"):
        build_engine(command)


def test_the_tool_writes_and_tells(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "m.onnx")
    done = tool("export.py", str(checkpoint), "--output", output, "--batch", "1", "--images", str(photos))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"wrote {output} (")
    assert os.path.getsize(output) > 1e6
    failed = tool("export.py", "nowhere.pth", "--output", output)
    assert failed.returncode == 2
    assert "nowhere.pth does not exist" in failed.stderr
