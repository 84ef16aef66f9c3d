"""AOTInductor, ExecuTorch, LiteRT and Core ML: graphs without constants, errors, and sessions with imitated runtimes."""

import importlib.util
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from PIL import Image
from torch import Tensor, nn

from deim import Predictor
from deim.errors import CheckpointError, ConfigError, ExportError
from deim.inference.export import export as export_module
from deim.inference.export import formats
from deim.inference.export.conversion import conversion
from deim.inference.export.export import export
from deim.inference.export.formats import EXPORTERS, coreml, executorch, exporter_of, litert
from deim.inference.export.formats.coreml import convert_gather_operands
from deim.inference.export.formats.litert import select_top_values_by_index
from deim.inference.export.formats.torch_export import TorchExportExporter
from deim.inference.export.metadata import METADATA_KEY, Metadata
from deim.inference.export.options import ExportOptions
from deim.inference.export.program_folding import fold_constants
from deim.inference.exported_runner import open_session
from tests.inference.conftest import write_checkpoint

METADATA = Metadata("1.0", ["a"], (64, 96), False, "RGB", True, "float32")
FIXED = ExportOptions(dynamic_batch=False)
OUTPUTS = [np.full((2, 5), 0.5, np.float32), np.zeros((2, 5), np.int64), np.zeros((2, 5, 4), np.float32)]


class WithConstants(nn.Module):
    """A module with values that depend on its weights only, as the weighting function of D-FINE."""

    def __init__(self) -> None:
        super().__init__()
        self.bound = nn.Parameter(torch.tensor([0.5]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        exponents = torch.arange(x.shape[1], dtype=torch.float64)
        weights = ((self.bound.double() + 1) ** exponents).clamp_(max=4).float()
        first, second = weights.split(2)
        return x * weights + x.new_zeros(4), x[:, :2] + first - second


def test_constants_are_folded() -> None:
    module, x = WithConstants(), torch.randn(2, 4)
    program = torch.export.export(module, (x,), dynamic_shapes={"x": {0: torch.export.Dim("N")}}, strict=False)
    folded = fold_constants(program)
    operators = {str(node.target) for node in folded.graph.nodes if node.op == "call_function"}
    assert operators == {"aten.mul.Tensor", "aten.slice.Tensor", "aten.add.Tensor", "aten.sub.Tensor"}
    for inputs in (x, torch.randn(3, 4)):
        assert all(torch.equal(a, b) for a, b in zip(folded(inputs), module(inputs), strict=True))


class TopValues(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values, indices = x.topk(2)
        return x.topk(3, dim=1).values, values, indices


def test_values_of_top_k_are_selected_by_index() -> None:
    x = torch.randn(1, 7, 5)
    module = torch.export.export(TopValues(), (x,), strict=False).module()
    select_top_values_by_index(module)
    assert sum(node.target is torch.ops.aten.gather.default for node in module.graph.nodes) == 1
    assert all(torch.equal(a, b) for a, b in zip(module(x), TopValues()(x), strict=True))


class Gathers(nn.Module):
    def forward(self, x: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        return (x > 0).gather(1, indices) | (x < -1).any(), x.gather(1, indices)


def test_operands_of_gather_operators_are_converted() -> None:
    inputs = torch.randn(2, 7), torch.randint(7, (2, 5))
    module = torch.export.export(Gathers(), inputs, strict=False).module()
    convert_gather_operands(module)
    dtypes = {node.args[1] for node in module.graph.nodes if node.target is torch.ops.aten.to.dtype}
    assert dtypes == {torch.int32, torch.int64, torch.bool}
    assert all(torch.equal(a, b) for a, b in zip(module(*inputs), Gathers()(*inputs), strict=True))


@pytest.mark.parametrize(("suffix", "extra"), [(".pte", "executorch"), (".tflite", "litert"), (".mlpackage", "coreml")])
def test_missing_packages_are_errors(suffix: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"export to {suffix} requires .*: pip install 'deim\[{extra}\]'"):
        export("missing.pth", None, f"model{suffix}", FIXED)


def test_compiled_packages_require_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder

    def missing() -> str:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    with pytest.raises(ConfigError, match=r"export to \.aoti\.pt2 requires a C\+\+ compiler: install"):
        export("missing.pth", None, "model.aoti.pt2", FIXED)


def test_errors_of_converters_name_the_file() -> None:
    with (
        pytest.raises(
            ExportError, match=r"m\.pte was not written: ExecuTorch cannot convert the model: no such operator"
        ),
        conversion("m.pte", "ExecuTorch"),
    ):
        raise ValueError("some details\nno such operator")


def test_files_that_cannot_be_run_here_are_not_reported_as_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unrunnable(TorchExportExporter):
        suffix = ".elsewhere"

        def write(self, model: Any, path: str) -> str:
            Path(path).touch()
            return path

        def unavailable_reason(self) -> str:
            return "it runs elsewhere"

    monkeypatch.setattr(formats, "EXPORTERS", (*EXPORTERS, Unrunnable()))
    for name in ("load_trained", "prepare_export"):
        monkeypatch.setattr(export_module, name, lambda *arguments: SimpleNamespace(model=nn.Identity()))
    lines: list[str] = []
    message = r"m\.elsewhere was written \(.* MiB\), but its detections were not compared .*: it runs elsewhere"
    monkeypatch.setattr(export_module, "check_model", lambda *arguments: None)
    with pytest.raises(ExportError, match=message):
        export("model.pth", None, str(tmp_path / "m.elsewhere"), FIXED, log=lines.append)
    assert lines == []


class ExecuTorchProgram:
    """Imitation of a loaded program of ExecuTorch, which reuses the memory of its outputs."""

    def __init__(self, has_metadata: bool = True):
        self.method_names = {"forward", METADATA_KEY} if has_metadata else {"forward"}
        self.memory = [torch.from_numpy(output.copy()) for output in OUTPUTS]

    def load_method(self, name: str) -> Any:
        if name == METADATA_KEY:
            return SimpleNamespace(execute=lambda inputs: [METADATA.to_json()])
        shape = SimpleNamespace(sizes=lambda: (2, 3, 64, 96))
        metadata = SimpleNamespace(input_tensor_meta=lambda index: shape)
        return SimpleNamespace(execute=self.execute, metadata=metadata)

    def execute(self, inputs: list[Tensor]) -> list[Tensor]:
        self.memory[0] += 1
        return self.memory


def imitate_executorch(monkeypatch: pytest.MonkeyPatch, program: ExecuTorchProgram) -> None:
    runtime = SimpleNamespace(load_program=lambda path: program)
    module = SimpleNamespace(Runtime=SimpleNamespace(get=lambda: runtime))
    monkeypatch.setattr(executorch, "import_runtime", lambda *names: module)


def test_executorch_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.pte").touch()
    imitate_executorch(monkeypatch, ExecuTorchProgram())
    session = open_session(str(tmp_path / "m.pte"))
    assert (session.metadata.class_names, session.batch_size) == (["a"], 2)
    first, second = (session(np.zeros((2, 3, 64, 96), np.uint8))[0][0, 0] for _ in range(2))
    assert (first, second) == (1.5, 2.5), "outputs are copied"
    with pytest.raises(ConfigError, match="runs on the CPU only"):
        open_session(str(tmp_path / "m.pte"), "cuda")
    imitate_executorch(monkeypatch, ExecuTorchProgram(has_metadata=False))
    with pytest.raises(CheckpointError, match="was not made by deim export"):
        open_session(str(tmp_path / "m.pte"))


def test_litert_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Runner:
        def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
            assert {name: value.dtype for name, value in inputs.items()} == {"args_0": np.uint8, "args_1": np.int32}
            return dict(zip(("scores", "labels", "boxes"), OUTPUTS, strict=True))

        def get_input_details(self) -> dict[str, Any]:
            sizes = {"shape": np.array([2, 2]), "dtype": np.int32}
            return {"args_1": sizes, "args_0": {"shape": np.array([2, 3, 64, 96]), "dtype": np.uint8}}

    interpreter = SimpleNamespace(get_signature_runner=Runner)
    module = SimpleNamespace(Interpreter=lambda path, num_threads: interpreter)
    monkeypatch.setattr(litert, "import_runtime", lambda *names: module)
    path = tmp_path / "m.tflite"
    path.write_bytes(b"TFL3")
    with pytest.raises(CheckpointError, match="was not made by deim export"):
        open_session(str(path))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("deim.json", METADATA.to_json())
    session = open_session(str(path))
    assert (session.metadata.class_names, session.batch_size) == (["a"], 2)
    outputs = session(np.zeros((2, 3, 64, 96), np.uint8), np.zeros((2, 2), np.int64))
    assert all(np.array_equal(a, b) for a, b in zip(outputs, OUTPUTS, strict=True))


class CoreMLPackage:
    """Imitation of a loaded package of Core ML with an image as input."""

    user_defined_metadata = {METADATA_KEY: METADATA.to_json()}  # noqa: RUF012

    def __init__(self, path: str, compute_units: str):
        self.units = compute_units

    def get_spec(self) -> Any:
        image = SimpleNamespace(name="images", type=SimpleNamespace(WhichOneof=lambda name: "imageType"))
        return SimpleNamespace(description=SimpleNamespace(input=[image]))

    def predict(self, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        assert inputs["images"].size == (96, 64)
        assert inputs["images"].getpixel((0, 0)) == (1, 2, 3)
        return dict(zip(("boxes", "labels", "scores"), reversed(OUTPUTS), strict=True))


def test_core_ml_session(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(
        ComputeUnit=SimpleNamespace(CPU_ONLY="cpu", ALL="all"), models=SimpleNamespace(MLModel=CoreMLPackage)
    )
    monkeypatch.setattr(coreml, "import_runtime", lambda *names: module)
    session = coreml.CoreMLSession("m.mlpackage", "cpu")
    assert (session.package.units, session.batch_size) == ("cpu", 1)
    image = np.broadcast_to(np.array([1, 2, 3], np.uint8).reshape(1, 3, 1, 1), (1, 3, 64, 96))
    assert all(np.array_equal(a, b) for a, b in zip(session(image), OUTPUTS, strict=True))
    assert coreml.to_image(image, "BGR").getpixel((0, 0)) == (3, 2, 1)
    with pytest.raises(ConfigError, match="selects the processor itself"):
        coreml.CoreMLSession("m.mlpackage", "cuda")


def test_core_ml_runs_on_macos_only(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = exporter_of("m.mlpackage")
    monkeypatch.setattr(coreml.sys, "platform", "linux")
    assert exporter.unavailable_reason().startswith("Core ML runs on macOS only")
    with pytest.raises(ConfigError, match="cannot be run here: Core ML runs on macOS only"):
        exporter.open("m.mlpackage", "auto")
    monkeypatch.setattr(coreml.sys, "platform", "darwin")
    assert exporter.unavailable_reason() is None


def test_images_of_core_ml_have_no_batch() -> None:
    options = ExportOptions(dynamic_batch=False, batch=2)
    with pytest.raises(ConfigError, match="take one image in the interface deim: omit --batch"):
        formats.check_support(exporter_of("m.mlpackage"), options)


@pytest.mark.long
@pytest.mark.parametrize(
    ("suffix", "package"), [(".aoti.pt2", "torch"), (".pte", "executorch"), (".tflite", "litert_torch")]
)
@pytest.mark.parametrize("family", ["dfine", "deimv2_lite"])
def test_files_match_torch(suffix: str, package: str, family: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    checkpoint, lines, path = write_checkpoint(tmp_path / "model.pth", family), list[str](), tmp_path / f"m{suffix}"
    # In flat areas, random weights give all tokens the same score, and each runtime selects other ones of them.
    images = tmp_path / "noise"
    images.mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(256, size=(128, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{seed}.png")
    export(str(checkpoint), None, str(path), FIXED, str(images), lines.append)
    assert "finds 30 of 30 detections of torch" in lines[0]
    expected = Predictor(checkpoint, threshold=0.0, device="cpu").predict(images)
    detections = Predictor(path, threshold=0.0, device="cpu").predict(images)
    assert all(are_equal_in_any_order(a, b) for a, b in zip(detections, expected, strict=True))


def are_equal_in_any_order(a: Instances, b: Instances) -> bool:
    """Return whether every detection has an equal one, up to rounding: runtimes order equal scores differently."""
    box_differences = (a.pred_boxes.tensor[:, None] - b.pred_boxes.tensor[None]).abs().amax(dim=2)
    score_differences = (a.scores[:, None] - b.scores[None]).abs()
    is_same_class = a.pred_classes[:, None] == b.pred_classes[None]
    is_equal = (box_differences < 1e-2) & (score_differences < 1e-4) & is_same_class
    return len(a) == len(b) and bool(is_equal.any(dim=0).all()) and bool(is_equal.any(dim=1).all())


@pytest.mark.long
def test_core_ml_packages_are_written(tmp_path: Path) -> None:
    coremltools = pytest.importorskip("coremltools")
    checkpoint, path = write_checkpoint(tmp_path / "model.pth", "dfine"), tmp_path / "m.mlpackage"
    if exporter_of(path).unavailable_reason() is None:
        export(str(checkpoint), None, str(path), FIXED)
    else:
        with pytest.raises(ExportError, match="Core ML runs on macOS only"):
            export(str(checkpoint), None, str(path), FIXED)
    package = coremltools.models.MLModel(str(path), skip_model_load=True)
    description = package.get_spec().description
    assert [value.name for value in description.input] == ["images"]
    assert [value.name for value in description.output] == ["scores", "labels", "boxes"]
    assert Metadata.from_json(package.user_defined_metadata[METADATA_KEY], str(path)).size == [128, 128]
