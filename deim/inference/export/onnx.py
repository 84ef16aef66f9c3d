"""Export of detectors to ONNX."""

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion

import deim
from deim.data.mapper import channel_order
from deim.errors import ConfigError, ExportError
from deim.inference.deployment import to_deployment
from deim.inference.export.constant_folding import fold_constant_splits
from deim.inference.export.detrex import DetrexGraph, use_attention_form
from deim.inference.export.float16 import to_float16
from deim.inference.export.graph import INPUT_NAME, DEIMGraph, DetectionGraph, example_input
from deim.inference.export.int8 import to_int8
from deim.inference.export.metadata import METADATA_KEY, STRIDE, Metadata
from deim.inference.images import to_network_input
from deim.inference.trained_model import TrainedModel
from deim.layers.ops import EXPORT_FORMS, use_export_form
from deim.modeling.detector import DEIMDetector

# LayerNormalization is a single node since opset 17; torch's exporter starts at 18.
OPSETS = range(18, 24)
PRECISIONS = ("float32", "float16", "int8")
# torch 2.6 cannot export linear layers with dynamic image size; 2.7 is untested.
_MIN_TORCH = "2.8"


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export.

    Attributes:
        size: (height, width) of the images, multiples of 32; None for that of the recipe's test images.
        dynamic_batch: accept any batch size instead of only ``batch``.
        dynamic_size: accept any height and width that are multiples of 32.
        postprocess: see :class:`DetectionGraph`.
        attention: one of :data:`deim.layers.ops.EXPORT_FORMS`.
        opset: ONNX opset.
        batch: batch size, if it is fixed.
        precision: one of :data:`PRECISIONS`; see :mod:`deim.inference.export.float16` and
            :mod:`deim.inference.export.int8`.
    """

    size: tuple[int, int] | None = None
    dynamic_batch: bool = True
    dynamic_size: bool = False
    postprocess: bool = True
    attention: str = "grid_sample"
    opset: int = 18
    batch: int = 1
    precision: str = "float32"

    def check(self) -> None:
        """Check the options.

        Raises:
            ConfigError: if an option is invalid.
        """
        if self.attention not in EXPORT_FORMS:
            raise ConfigError(f"attention={self.attention!r}; choose one of {', '.join(EXPORT_FORMS)}")
        if self.attention == "plugin" and self.precision == "int8":
            raise ConfigError("attention='plugin' is for TensorRT, but int8 for ONNX Runtime and OpenVINO: choose one")
        if self.opset not in OPSETS:
            raise ConfigError(f"opset={self.opset}; choose one from {OPSETS.start} to {OPSETS[-1]}")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision={self.precision!r}; choose one of {', '.join(PRECISIONS)}")
        if self.batch < 1:
            raise ConfigError(f"batch={self.batch} must be at least 1")
        if self.size is not None and not _is_supported(self.size):
            raise ConfigError(f"size={self.size[0]} x {self.size[1]}: height and width must be multiples of {STRIDE}")


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


def input_size(config: Any) -> tuple[int, int]:
    """Return (height, width) of a recipe's test images.

    If the aspect ratio is kept, return a square of the shorter side, rounded up to a multiple of 32.

    Raises:
        ConfigError: if the recipe does not define the size, or height or width is not a multiple of 32.
    """
    # Mappers of detrex use another key and positional arguments; their size is not read.
    for augmentation in config.dataloader.test.mapper.get("augmentations", ()):
        if "shape" in augmentation:
            shape = augmentation.shape
            height, width = (shape, shape) if isinstance(shape, int) else shape
            if not _is_supported((height, width)):
                raise ConfigError(
                    f"the recipe's test images have {height} x {width} pixels, not multiples of {STRIDE}: set another "
                    "size with --size HEIGHT WIDTH"
                )
            return int(height), int(width)
        if "short_edge_length" in augmentation:
            lengths = augmentation.short_edge_length
            side = -(-int(lengths if isinstance(lengths, int) else max(lengths)) // STRIDE) * STRIDE
            return side, side
    raise ConfigError("the recipe does not define the size of test images: set it with --size HEIGHT WIDTH")


def _is_supported(size: Sequence[int]) -> bool:
    return all(side >= STRIDE and side % STRIDE == 0 for side in size)


def export_onnx(
    trained: TrainedModel, path: str | Path, options: ExportOptions, images: Sequence[np.ndarray] = ()
) -> ExportedModel:
    """Export a model to an ``.onnx`` file, on the CPU.

    Args:
        images: calibration images for int8 (required there), uint8 (H, W, 3) RGB.

    Raises:
        ConfigError: if an option is invalid, a package is missing or too old, or the model is not supported.
        ExportError: if torch cannot export a model of detrex.
    """
    options.check()
    if options.precision == "int8" and not images:
        raise ConfigError("int8 requires calibration images similar to those to predict on: give some with --images")
    _require_exporter()
    size = options.size or input_size(trained.config)
    model = to_deployment(trained.model.cpu(), memory_format=torch.contiguous_format)
    graph = _build_graph(model, options).eval()
    # Two images, because tracing treats a dimension of size 1 as a constant.
    example = example_input(2 if options.dynamic_batch else options.batch, size)
    graph.prepare(example)
    metadata = Metadata(
        version=deim.__version__,
        class_names=trained.class_names,
        size=size,
        dynamic_size=options.dynamic_size,
        channels=channel_order(trained.config.dataloader.test.mapper) or "RGB",
        postprocess=options.postprocess,
        dtype=options.precision,
        outputs=graph.output_names,
        skeleton=None if trained.skeleton is None else trained.skeleton.to_dict(),
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with _silence_exporter():
        (_export_dynamo if graph.supports_dynamic_shape else _export_traced)(graph, example, options, str(path))
        _add_metadata_and_fold(str(path), metadata.to_json())
    if options.precision == "float16":
        to_float16(path)
    elif options.precision == "int8":
        with _silence_exporter():
            inputs = (to_network_input(image, size, metadata.channels) for image in images)
            to_int8(path, (np.stack([input_image] * len(example)) for input_image in inputs))
    return ExportedModel(Path(path), graph, metadata)


def _build_graph(model: nn.Module, options: ExportOptions) -> DetectionGraph:
    if isinstance(model, DEIMDetector):
        return DEIMGraph(model, options.postprocess)
    if options.attention == "plugin":
        raise ConfigError(
            f"{type(model).__name__} is a detrex model: its attention can be exported as grid_sample or gather only"
        )
    if options.dynamic_batch or options.dynamic_size:
        raise ConfigError(
            f"{type(model).__name__} is a detrex model, which can be exported for a fixed batch size and image size "
            "only: give --batch, and omit --dynamic-size"
        )
    return DetrexGraph(model, options.postprocess)


def _export_dynamo(graph: DetectionGraph, images: Tensor, options: ExportOptions, path: str) -> None:
    with use_export_form(options.attention):
        program: Any = torch.onnx.export(
            graph,
            (images,),
            dynamo=True,
            opset_version=options.opset,
            input_names=[INPUT_NAME],
            output_names=list(graph.output_names),
            dynamic_shapes={INPUT_NAME: _dynamic_dims(options)},
            verbose=False,
        )
    program.save(path)


def _export_traced(graph: DetectionGraph, images: Tensor, options: ExportOptions, path: str) -> None:
    """Export by tracing, which turns Python numbers computed by the model into constants."""
    names: dict[str, Any] = {"input_names": [INPUT_NAME], "output_names": list(graph.output_names)}
    with use_attention_form(options.attention):
        try:
            torch.onnx.export(graph, (images,), path, dynamo=False, opset_version=options.opset, **names)
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


def _dynamic_dims(options: ExportOptions) -> dict[int, Any]:
    dims: dict[int, Any] = {}
    if options.dynamic_batch:
        dims[0] = torch.export.Dim("batch", min=1, max=1024)
    if options.dynamic_size:
        dims |= {axis: STRIDE * torch.export.Dim(name, min=2, max=128) for axis, name in ((2, "h"), (3, "w"))}
    return dims


@contextlib.contextmanager
def _silence_exporter() -> Any:
    """Suppress the messages of the exporter."""
    disabled_level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled_level)


def _require_exporter() -> None:
    if TorchVersion(torch.__version__) < _MIN_TORCH:
        raise ConfigError(f"export requires torch {_MIN_TORCH} or later, but this is {torch.__version__}")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"export requires the package {error.name}: pip install 'deim[export]'") from error
