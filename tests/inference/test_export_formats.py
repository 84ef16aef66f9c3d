"""The table of formats: errors derive from it, and every format of it writes files that match torch."""

from pathlib import Path

import pytest

from deim import Predictor
from deim.errors import CheckpointError, ConfigError
from deim.inference.export.export import default_attention_form, export
from deim.inference.export.formats import (
    EXPORTERS,
    check_model,
    check_support,
    find_exporter,
    format_table,
)
from deim.inference.export.options import ExportOptions
from deim.inference.exported_runner import is_exported
from deim.layers.ops import EXPORT_FORMS
from tests.commands import tool
from tests.conftest import long_except
from tests.inference.conftest import write_checkpoint
from tests.inference.test_predictor import are_close

BY_SUFFIX = {exporter.suffix: exporter for exporter in EXPORTERS}


def test_formats_are_listed() -> None:
    process = tool("export.py", "--formats")
    assert process.returncode == 0, process.stderr
    assert all(exporter.suffix in process.stdout for exporter in EXPORTERS)
    assert [row["suffix"] for row in format_table()] == list(BY_SUFFIX)


@pytest.mark.parametrize("suffix", BY_SUFFIX)
def test_table_is_valid(suffix: str) -> None:
    exporter = BY_SUFFIX[suffix]
    assert find_exporter(f"folder/model{suffix.upper()}") is exporter
    assert is_exported(f"model{suffix}")
    assert not is_exported("model.pth")
    assert set(exporter.support.attention) <= set(EXPORT_FORMS)
    assert default_attention_form(f"model{suffix}") == exporter.support.attention[0]
    check_support(exporter, ExportOptions(dynamic_batch=exporter.support.dynamic_batch))


@pytest.mark.parametrize(
    ("suffix", "options", "message"),
    [
        (".pt2", {"precision": "float16"}, r"\.pt2 files \(torch\.export\) have no float16 form; export \.onnx or"),
        (".pt2", {"opset": 20}, r"have no ONNX opset: omit --opset; export \.onnx or \.xml or \.engine"),
        (".pt2", {"dynamic_size": True}, r"fixed image size: omit --dynamic-size; export \.onnx or \.xml"),
        (".engine", {"precision": "int8"}, "TensorRT quantizes float32 files itself"),
        (".xml", {"attention": "plugin"}, r"do not support attention='plugin'; export \.onnx or \.engine"),
    ],
)
def test_unsupported_options_are_errors_that_name_other_formats(suffix: str, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_support(BY_SUFFIX[suffix], ExportOptions(**options))


def test_unsupported_models_are_errors() -> None:
    check_model(BY_SUFFIX[".onnx"], ("masks", "keypoints"), True)
    with pytest.raises(ConfigError, match=r"\.pt2 files .* do not support detrex's own models; export \.onnx or"):
        check_model(BY_SUFFIX[".pt2"], (), True)


def test_engines_are_not_run(tmp_path: Path) -> None:
    (tmp_path / "m.engine").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"which deim does not run: use TensorRT, or predict with .*m\.engine\.onnx"):
        Predictor(tmp_path / "m.engine")


@pytest.mark.parametrize("family", long_except({"deimv2_lite"}, {"deimv2_lite": "", "dfine": ""}))
def test_torch_export(family: str, photos: Path, tmp_path: Path) -> None:
    checkpoint, lines = write_checkpoint(tmp_path / "model.pth", family), []
    export(str(checkpoint), None, str(tmp_path / "model.pt2"), ExportOptions(), log=lines.append)
    assert "torch.export on cpu finds" in lines[0]
    assert "batches: 1 x 128 x 128, 3 x 128 x 128" in lines[0]
    expected = Predictor(checkpoint, threshold=0.0, device="cpu").predict(photos)
    detections = Predictor(tmp_path / "model.pt2", threshold=0.0, device="cpu").predict(photos)
    assert all(are_close(a, b) for a, b in zip(detections, expected, strict=True))


def test_broken_files_are_errors(tmp_path: Path) -> None:
    (tmp_path / "broken.pt2").write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match=r"broken\.pt2 cannot be opened"):
        Predictor(tmp_path / "broken.pt2", device="cpu")
