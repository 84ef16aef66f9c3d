"""Core ML packages, for Apple's devices."""

import sys
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import fx

from deim.errors import ConfigError
from deim.inference.export.conversion import conversion
from deim.inference.export.formats.exporter import Exporter, Support
from deim.inference.export.metadata import METADATA_KEY, Metadata
from deim.inference.export.model import ExportableModel
from deim.inference.export.options import ExportOptions
from deim.inference.export.program_folding import fold_constants
from deim.inference.export.session import import_runtime, open_or_raise
from deim.layers.ops import use_export_form

_REASON = "Core ML runs on macOS only"


class CoreMLExporter(Exporter):
    """Core ML packages. The input of the interface "deim" is an image, as of a camera or the photo library."""

    suffix, runtime, packages = ".mlpackage", "Core ML", {"coremltools": "coreml"}
    support = Support(precisions=("float32", "float16"), attention=("grid_sample", "gather"))

    def rejection(self, options: ExportOptions) -> tuple[str, str] | None:
        if options.interface == "deim" and not options.dynamic_batch and options.batch != 1:
            return "batch", "take one image in the interface deim: omit --batch, or use --interface official"
        return super().rejection(options)

    def unavailable_reason(self) -> str | None:
        return None if sys.platform == "darwin" else f"{_REASON}. Export on a Mac to verify"

    def write(self, model: ExportableModel, path: str) -> str:
        with conversion(path, "coremltools"):
            package = _convert(model)
        package.user_defined_metadata[METADATA_KEY] = model.metadata.to_json()
        package.short_description = f"Detector of deim {model.metadata.version}"
        package.save(path)
        return path

    def open(self, path: str, device: str) -> "CoreMLSession":
        if sys.platform != "darwin":
            raise ConfigError(f"{path} cannot be run here: {_REASON}")
        return CoreMLSession(path, device)


def _convert(model: ExportableModel) -> Any:
    """Return the model as a package, from a trace: the converter supports images as inputs of traces only."""
    import coremltools

    # Core ML has no integers of 8 bits as inputs. Images are passed as floats from 0 to 255.
    example = tuple(value.float() if value.dtype == torch.uint8 else value for value in model.example)
    with use_export_form(model.attention), torch.no_grad():
        module = fold_constants(torch.export.export(model.graph, example, strict=False))
        convert_gather_operands(module)
        traced = torch.jit.trace(module, example, check_trace=False)
    inputs: list[Any] = [
        coremltools.TensorType(
            name, shape=tuple(value.shape), dtype=np.float32 if value.is_floating_point() else np.int32
        )
        for name, value in zip(model.graph.input_names, example, strict=True)
    ]
    if model.metadata.interface == "deim":
        layout = getattr(coremltools.colorlayout, model.metadata.channels)
        inputs[0] = coremltools.ImageType(
            model.graph.input_names[0], shape=tuple(example[0].shape), color_layout=layout
        )
    return coremltools.convert(
        traced,
        inputs=inputs,
        outputs=[coremltools.TensorType(name) for name in model.graph.output_names],
        minimum_deployment_target=coremltools.target.iOS17,
        compute_precision=getattr(coremltools.precision, model.options.precision.upper()),
    )


def convert_gather_operands(module: fx.GraphModule) -> None:
    """Convert the booleans that gather operators select from, and their indices, to integers, in place.

    Core ML gathers numbers only. Its converter turns the quotients of integer divisions, which are indices of queries,
    into floats.
    """
    graph, gather, to = module.graph, torch.ops.aten.gather.default, torch.ops.aten.to.dtype
    for node in list(graph.nodes):
        if node.target is not gather:
            continue
        source, dim, indices = node.args[:3]
        with graph.inserting_before(node):
            node.args = (source, dim, graph.call_function(to, (indices, torch.int64)))
        if node.meta["val"].dtype != torch.bool:
            continue
        with graph.inserting_before(node):
            node.args = (graph.call_function(to, (source, torch.int32)), *node.args[1:])
        with graph.inserting_after(node):
            booleans = graph.call_function(to, (node, torch.bool))
        node.replace_all_uses_with(booleans, delete_user_cb=lambda user, booleans=booleans: user is not booleans)
    module.recompile()


class CoreMLSession:
    """Loaded ``.mlpackage``, on macOS.

    Args:
        device: "cpu"; "auto" for all processors of the machine.
    """

    def __init__(self, path: str, device: str = "auto"):
        coremltools = import_runtime("coremltools", path, "coreml")
        if device not in ("auto", "cpu"):
            raise ConfigError(
                f"{path}: Core ML selects the processor itself: use device='auto' or 'cpu', not {device!r}"
            )
        units = coremltools.ComputeUnit.CPU_ONLY if device == "cpu" else coremltools.ComputeUnit.ALL
        self.package = open_or_raise(path, lambda: coremltools.models.MLModel(path, compute_units=units))
        self.metadata = Metadata.from_json(self.package.user_defined_metadata.get(METADATA_KEY), path)
        inputs = self.package.get_spec().description.input
        self.inputs = [value.name for value in inputs]
        self.is_image = inputs[0].type.WhichOneof("Type") == "imageType"
        self.batch_size: int | None = 1 if self.is_image else int(inputs[0].type.multiArrayType.shape[0])
        self.description = f"Core ML on {'cpu' if device == 'cpu' else 'all processors'}"

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        values: list[Any] = [value.astype(np.int32) if value.dtype == np.int64 else value for value in inputs]
        if self.is_image:
            values[0] = to_image(inputs[0], self.metadata.channels)
        outputs = self.package.predict(dict(zip(self.inputs, values, strict=True)))
        return [outputs[name] for name in self.metadata.outputs]


def to_image(images: np.ndarray, channels: str) -> Image.Image:
    """Return a batch (1, 3, H, W) of one uint8 image with the channel order ``channels`` as an RGB image."""
    pixels = images[0].transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(pixels[..., ::-1] if channels == "BGR" else pixels))
