"""OpenVINO files, converted from ONNX files."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deim.errors import ConfigError
from deim.inference.export.formats.exporter import Exporter, Support
from deim.inference.export.formats.onnx import ONNX_PACKAGES, write_onnx
from deim.inference.export.metadata import METADATA_KEY, Metadata
from deim.inference.export.model import ExportableModel
from deim.inference.export.options import PRECISIONS
from deim.inference.export.session import import_runtime, last_line, open_or_raise


class OpenVINOExporter(Exporter):
    """OpenVINO files, ``.xml`` with weights in ``.bin``."""

    suffix, runtime, packages = ".xml", "OpenVINO", ONNX_PACKAGES | {"openvino": "openvino"}
    support = Support(precisions=PRECISIONS, dynamic_batch=True, dynamic_size=True, opset=True, detrex=True)

    def write(self, model: ExportableModel, path: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            onnx_file = Path(folder, "model.onnx")
            write_onnx(model, onnx_file)
            to_openvino(onnx_file, path, model.metadata)
        return path

    def open(self, path: str, device: str) -> "OpenVINOSession":
        return OpenVINOSession(path, device)

    def size(self, path: str) -> int:
        return sum(file.stat().st_size for file in (Path(path), Path(path).with_suffix(".bin")))


def to_openvino(onnx_file: str | Path, path: str | Path, metadata: Metadata) -> None:
    """Write ``path`` (``.xml``) and its weights (``.bin``).

    If the metadata's dtype is float16, weights are stored in float16, which halves the file. The file does not
    fix the dtype of the computation: :class:`OpenVINOSession` uses float32 on a CPU, and OpenVINO's default on other
    devices.

    Raises:
        ConfigError: if OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise ConfigError("export to OpenVINO requires the package openvino: pip install 'deim[openvino]'") from error
    model = openvino.convert_model(str(onnx_file))
    model.set_rt_info(metadata.to_json(), METADATA_KEY)
    openvino.save_model(model, str(path), compress_to_fp16=metadata.dtype == "float16")


class OpenVINOSession:
    """OpenVINO session of an ``.xml`` file; on the CPU unless "gpu" or another of its devices is requested.

    Raises:
        ConfigError: if OpenVINO cannot compile the file for the device.
    """

    def __init__(self, path: str, device: str = "auto"):
        openvino = import_runtime("openvino", path, "openvino")
        name = "CPU" if device in ("auto", "cpu") else device.upper()
        model = open_or_raise(path, lambda: openvino.Core().read_model(path))
        text = str(model.get_rt_info(METADATA_KEY).value) if model.has_rt_info(METADATA_KEY) else None
        self.metadata = Metadata.from_json(text, path)
        batch_dimension = model.inputs[0].partial_shape[0]
        self.batch_size = batch_dimension.get_length() if batch_dimension.is_static else None
        try:
            self.compiled = compile_openvino(model, name)
        except RuntimeError as error:
            raise ConfigError(f"OpenVINO cannot compile {path} for device {name}: {last_line(error)}") from error
        self.description = f"OpenVINO on {name}"

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        outputs = self.compiled(list(inputs))
        return [outputs[output] for output in self.compiled.outputs]


def compile_openvino(model: Any, name: str = "CPU") -> Any:
    """Compile an OpenVINO model or ONNX file for a device; on the CPU with as many threads as torch has."""
    import openvino

    options: dict[str, Any] = {}
    if name == "CPU":
        # The default is bfloat16 on processors that support it, which loses detections.
        options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(model, name, options)
