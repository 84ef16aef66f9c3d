"""ONNX files, which ONNX Runtime runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deim.errors import ConfigError, ExportError
from deim.inference.export.constant_folding import fold_constant_splits
from deim.inference.export.conversion import silence_exporter
from deim.inference.export.detrex import use_attention_form
from deim.inference.export.float16 import to_float16
from deim.inference.export.formats.exporter import Exporter, Support
from deim.inference.export.graph import DetectionGraph
from deim.inference.export.int8 import to_int8
from deim.inference.export.metadata import METADATA_KEY, Metadata
from deim.inference.export.model import ExportableModel, prepare_export
from deim.inference.export.options import INTERFACES, PRECISIONS, ExportOptions
from deim.inference.export.plugin import with_plugin_definition
from deim.inference.export.session import import_runtime, open_or_raise
from deim.inference.trained_model import TrainedModel
from deim.layers.ops import use_export_form

# Modules that writing and running ONNX files requires, and the extra that installs them.
ONNX_PACKAGES = dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "export")


class OnnxExporter(Exporter):
    """ONNX files, of which OpenVINO's files and TensorRT's engines are made."""

    suffix, runtime, packages = ".onnx", "ONNX Runtime", ONNX_PACKAGES
    support = Support(
        precisions=PRECISIONS,
        attention=("grid_sample", "gather", "plugin"),
        dynamic_batch=True,
        dynamic_size=True,
        opset=True,
        detrex=True,
        interfaces=INTERFACES,
    )

    def write(self, model: ExportableModel, path: str) -> str:
        write_onnx(model, path)
        return path

    def open(self, path: str, device: str) -> "OnnxSession":
        return OnnxSession(path, device)


@dataclass(frozen=True)
class ExportedModel:
    """Exported file and its origin.

    Attributes:
        path: path of the file.
        graph: equivalent torch model.
        metadata: metadata of the file.
    """

    path: Path
    graph: DetectionGraph
    metadata: Metadata


def export_onnx(
    trained: TrainedModel, path: str | Path, options: ExportOptions, images: Sequence[np.ndarray] = ()
) -> ExportedModel:
    """Export a model to an ``.onnx`` file, on the CPU, without verification.

    Args:
        images: calibration images for int8 (required there), uint8 (H, W, 3) RGB.

    Raises:
        ConfigError: if an option is invalid, a package is missing or too old, or the model is not supported.
        ExportError: if torch cannot export a model of detrex.
    """
    OnnxExporter().require()
    model = prepare_export(trained, options, images)
    write_onnx(model, path)
    return ExportedModel(Path(path), model.graph, model.metadata)


def write_onnx(model: ExportableModel, path: str | Path) -> None:
    """Write a model as an ``.onnx`` file; see :data:`ONNX_PACKAGES`."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with silence_exporter():
        (_export_dynamo if model.graph.supports_dynamic_shape else _export_traced)(model, str(path))
        _add_metadata_and_fold(str(path), model.metadata.to_json())
    if model.options.precision == "float16":
        example = dict(zip(model.graph.input_names, (value.numpy() for value in model.example), strict=True))
        to_float16(path, example)
    elif model.options.precision == "int8":
        with silence_exporter():
            to_int8(path, model.calibration_inputs())


def _export_dynamo(model: ExportableModel, path: str) -> None:
    with use_export_form(model.attention):
        program: Any = torch.onnx.export(
            model.graph,
            model.example,
            dynamo=True,
            opset_version=model.options.opset,
            input_names=list(model.graph.input_names),
            output_names=list(model.graph.output_names),
            dynamic_shapes=model.dynamic_shapes(),
            verbose=False,
        )
    program.save(path)


def _export_traced(model: ExportableModel, path: str) -> None:
    """Export by tracing, which turns Python numbers computed by the model into constants."""
    graph = model.graph
    names: dict[str, Any] = {"input_names": list(graph.input_names), "output_names": list(graph.output_names)}
    with use_attention_form(model.attention):
        try:
            torch.onnx.export(graph, model.example, path, dynamo=False, opset_version=model.options.opset, **names)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise ExportError(f"torch cannot export {type(graph.detector).__name__}: {reason}") from error


def _add_metadata_and_fold(path: str, metadata: str) -> None:
    """Add the metadata to the file, and fold its constant ``Split`` nodes."""
    import onnx

    model = onnx.load(path)
    model.metadata_props.add(key=METADATA_KEY, value=metadata)
    fold_constant_splits(model)
    onnx.save(model, path)


class OnnxSession:
    """ONNX Runtime session of an ``.onnx`` file.

    Args:
        device: "cuda" or "cuda:1" for a GPU; "auto" for a GPU if ONNX Runtime supports it, else the CPU.

    Raises:
        ConfigError: if a GPU is requested and ONNX Runtime cannot use it.
    """

    def __init__(self, path: str, device: str = "auto"):
        runtime = import_runtime("onnxruntime", path, "export")
        runtime.set_default_logger_severity(3)
        providers = runtime.get_available_providers()
        on_gpu = device.startswith("cuda") or (device == "auto" and "CUDAExecutionProvider" in providers)
        if on_gpu and "CUDAExecutionProvider" not in providers:
            raise ConfigError("this ONNX Runtime has no CUDA support: pip install onnxruntime-gpu, or use device='cpu'")
        gpu = _gpu_index(device) if on_gpu else None
        self.session = open_or_raise(path, lambda: start_onnx(path, gpu))
        # ONNX Runtime falls back to the CPU if it cannot load the CUDA libraries.
        on_gpu = "CUDAExecutionProvider" in self.session.get_providers()
        if device.startswith("cuda") and not on_gpu:
            raise ConfigError(f"ONNX Runtime cannot use {device}: check the CUDA libraries, or use device='cpu'")
        self.metadata = Metadata.from_json(self.session.get_modelmeta().custom_metadata_map.get(METADATA_KEY), path)
        self.inputs = [value.name for value in self.session.get_inputs()]
        batch = self.session.get_inputs()[0].shape[0]
        self.batch_size = batch if isinstance(batch, int) else None
        self.description = f"ONNX Runtime on {device if device.startswith('cuda') else 'cuda' if on_gpu else 'cpu'}"

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        return self.session.run(None, dict(zip(self.inputs, inputs, strict=True)))


def start_onnx(path: str, gpu: int | None = None) -> Any:
    """Create an ONNX Runtime session for any ONNX file, with as many threads as torch has.

    Args:
        gpu: index of the GPU; None for the CPU.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    gpu_providers = [] if gpu is None else [("CUDAExecutionProvider", {"device_id": gpu})]
    providers = [*gpu_providers, "CPUExecutionProvider"]
    return onnxruntime.InferenceSession(with_plugin_definition(path), options, providers=providers)


def _gpu_index(device: str) -> int:
    """Return 1 for "cuda:1", and 0 for "cuda" and "auto"."""
    index = device.partition(":")[2]
    if index and not index.isdigit():
        raise ConfigError(f"device {device!r} is not available: give a GPU as 'cuda' or 'cuda:1'")
    return int(index or 0)
