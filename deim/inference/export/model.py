"""A trained model in the form that the writers of all formats start from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion

import deim
from deim.data.mapper import channel_order
from deim.errors import ConfigError
from deim.inference.deployment import to_deployment
from deim.inference.export.detrex import DetrexGraph
from deim.inference.export.graph import (
    DeepStreamGraph,
    DEIMGraph,
    DetectionGraph,
    OfficialGraph,
    RawGraph,
    input_normalization,
)
from deim.inference.export.interfaces import network_inputs
from deim.inference.export.metadata import STRIDE, Metadata
from deim.inference.export.options import ExportOptions, is_supported
from deim.inference.images import to_network_input
from deim.inference.trained_model import TrainedModel
from deim.modeling.detector import DEIMDetector

# torch 2.6 cannot export linear layers with dynamic image size; 2.7 is untested.
_MIN_TORCH = "2.8"


@dataclass(frozen=True)
class ExportableModel:
    """Model to export.

    Attributes:
        graph: the model as a function of tensors.
        example: inputs to trace the graph with.
        metadata: metadata of the file.
        options: options of the export.
        images: images for calibration, uint8 (H, W, 3) RGB.
    """

    graph: DetectionGraph
    example: tuple[Tensor, ...]
    metadata: Metadata
    options: ExportOptions
    images: Sequence[np.ndarray] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images."""
        return self.metadata.size[0], self.metadata.size[1]

    @property
    def attention(self) -> str:
        """Form of deformable attention."""
        return self.options.attention or "grid_sample"

    @property
    def fixed_batch(self) -> int | None:
        """Batch size of the file; None if it is dynamic."""
        return None if self.options.dynamic_batch else self.options.batch

    def dynamic_shapes(self) -> tuple[dict[int, Any], ...]:
        """Return the dynamic dimensions of each input, for torch.export. The batch is "N", as in the official files."""
        batch: dict[int, Any] = {}
        sides: dict[int, Any] = {}
        if self.options.dynamic_batch:
            batch = {0: torch.export.Dim("N", min=1, max=1024)}
        if self.options.dynamic_size:
            sides = {axis: STRIDE * torch.export.Dim(name, min=2, max=128) for axis, name in ((2, "h"), (3, "w"))}
        return batch | sides, *[batch] * (len(self.example) - 1)

    def calibration_inputs(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield the inputs of the graph for each image of :attr:`images`, in batches of the size of the example."""
        for image in self.images:
            pixels = np.stack([to_network_input(image, self.size, self.metadata.channels)] * len(self.example[0]))
            yield dict(zip(self.graph.input_names, network_inputs(self.metadata, pixels), strict=True))


def prepare_export(trained: TrainedModel, options: ExportOptions, images: Sequence[np.ndarray] = ()) -> ExportableModel:
    """Return a model in its deployed form on the CPU, with all that the writers need.

    Args:
        images: calibration images for int8 (required there), uint8 (H, W, 3) RGB.

    Raises:
        ConfigError: if an option is invalid, torch is too old, or the model is not supported.
    """
    options.check()
    if options.precision == "int8" and not images:
        raise ConfigError("int8 requires calibration images similar to those to predict on: give some with --images")
    if TorchVersion(torch.__version__) < _MIN_TORCH:
        raise ConfigError(f"export requires torch {_MIN_TORCH} or later, but this is {torch.__version__}")
    size = options.size or input_size(trained.config)
    model = to_deployment(trained.model.cpu(), memory_format=torch.contiguous_format)
    graph = _build_graph(model, options).eval()
    # Two images, because tracing treats a dimension of size 1 as a constant.
    example = graph.example(2 if options.dynamic_batch else options.batch, size)
    graph.prepare(example[0])
    is_deim = options.interface == "deim"
    normalizes = is_deim or options.interface == "deepstream" or options.include_normalization
    metadata = Metadata(
        version=deim.__version__,
        class_names=trained.class_names,
        size=size,
        dynamic_size=options.dynamic_size,
        channels=(channel_order(trained.config.dataloader.test.mapper) or "RGB") if is_deim else "RGB",
        postprocess=graph.postprocess,
        dtype=options.precision,
        outputs=graph.output_names,
        skeleton=trained.skeleton.to_dict() if trained.skeleton is not None and "keypoints" in graph.fields else None,
        interface=options.interface,
        normalization=None if normalizes else input_normalization(graph.detector),
    )
    return ExportableModel(graph, example, metadata, options, images)


def _build_graph(model: nn.Module, options: ExportOptions) -> DetectionGraph:
    if isinstance(model, DEIMDetector):
        if options.interface == "official":
            return OfficialGraph(model, options.include_normalization)
        if options.interface == "raw":
            return RawGraph(model, options.include_normalization)
        if options.interface == "deepstream":
            return DeepStreamGraph(model)
        return DEIMGraph(model, options.postprocess)
    name = f"{type(model).__name__} is a detrex model"
    if options.attention == "plugin":
        raise ConfigError(f"{name}: its attention can be exported as grid_sample or gather only")
    if options.interface != "deim":
        raise ConfigError(f"{name}: it can be exported with the interface deim only")
    if options.dynamic_batch or options.dynamic_size:
        raise ConfigError(
            f"{name}, which can be exported for a fixed batch size and image size only: give --batch, and omit "
            "--dynamic-size"
        )
    return DetrexGraph(model, options.postprocess)


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
            if not is_supported((height, width)):
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
