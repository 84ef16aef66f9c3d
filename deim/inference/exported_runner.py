"""Inference with exported files in ONNX Runtime and OpenVINO."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from deim.errors import CheckpointError, ConfigError
from deim.inference.export.metadata import METADATA_KEY, STRIDE, Metadata
from deim.inference.export.plugin import with_plugin_definition
from deim.inference.images import to_network_input
from deim.structures.keypoints import scored_keypoints
from deim.structures.mask_images import resize_masks
from deim.structures.skeleton import Skeleton


class Session(Protocol):
    """Loaded file that maps uint8 images (B, 3, H, W) to its outputs.

    Attributes:
        description: runtime and device, for logs.
        batch_size: fixed batch size of the file; None if the file accepts any.
    """

    metadata: Metadata
    description: str
    batch_size: int | None

    def __call__(self, images: np.ndarray) -> list[np.ndarray]: ...


class ExportedRunner:
    """:class:`~deim.inference.runner.Runner` of an exported file."""

    def __init__(self, path: str, session: Session):
        metadata = session.metadata
        if not metadata.postprocess:
            raise ConfigError(
                f"{path} returns logits instead of detections: export it without --raw to predict with it"
            )
        self.session, self.metadata = session, metadata
        self.class_names, self.description = list(metadata.class_names), session.description
        self.skeleton = None if metadata.skeleton is None else Skeleton.from_dict(metadata.skeleton)

    def prepare(self, image: np.ndarray) -> Tensor:
        size = self._size(image.shape[0], image.shape[1])
        return torch.from_numpy(to_network_input(image, size, self.metadata.channels))

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) to resize an image to."""
        export_size = self.metadata.size
        if not self.metadata.dynamic_size:
            return export_size[0], export_size[1]
        # about as many pixels as the export size, with the aspect ratio of the image
        scale = (export_size[0] * export_size[1] / (height * width)) ** 0.5
        new_height, new_width = (max(round(side * scale / STRIDE), 1) * STRIDE for side in (height, width))
        return new_height, new_width

    def __call__(self, images: list[Tensor], sizes: list[tuple[int, int]], threshold: float = 0.0) -> list[Instances]:
        """Run images of the same size as one batch."""
        results: dict[int, Instances] = {}
        for shape in dict.fromkeys(image.shape for image in images):
            indices = [index for index, image in enumerate(images) if image.shape == shape]
            outputs = self._run(np.stack([images[index].numpy() for index in indices]))
            for index, *image_outputs in zip(indices, *outputs, strict=True):
                by_name = dict(zip(self.metadata.outputs, image_outputs, strict=True))
                results[index] = _instances(sizes[index], (shape[1], shape[2]), by_name, threshold)
        return [results[index] for index in range(len(images))]

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        """Run the file on images of the same size.

        A fixed batch size splits the images. The last batch is then filled with copies of the last image.
        """
        size = self.session.batch_size or len(images)
        batches = [
            self.session(images[np.arange(start, start + size).clip(max=len(images) - 1)])
            for start in range(0, len(images), size)
        ]
        return [np.concatenate(parts)[: len(images)] for parts in zip(*batches, strict=True)]


def _instances(
    size: tuple[int, int], input_size: tuple[int, int], outputs: dict[str, np.ndarray], threshold: float
) -> Instances:
    """Return the detections of one image with at least the score ``threshold``.

    Args:
        size: (height, width) of the result.
        input_size: (height, width) of the model's input.
        outputs: outputs of the file for the image.
        threshold: minimum score.
    """
    keep = outputs["scores"] >= threshold
    labels = torch.from_numpy(outputs["labels"][keep].astype(np.int64))
    floats = {name: torch.from_numpy(output[keep].astype(np.float32)) for name, output in outputs.items()}
    limits = torch.tensor([size[1], size[0], size[1], size[0]], dtype=torch.float32)
    instances = Instances(
        size,
        pred_boxes=Boxes(floats["boxes"] * limits),
        scores=floats["scores"],
        pred_classes=labels,
    )
    if "keypoints" in floats:
        instances.pred_keypoints = scored_keypoints(floats["keypoints"] * limits[:2], floats["scores"])
    if "masks" in floats:
        instances.pred_masks = resize_masks(floats["masks"], input_size, input_size, size)
    return instances


class OnnxSession:
    """ONNX Runtime session of an ``.onnx`` file.

    Args:
        device: "cuda" or "cuda:1" for a GPU; "auto" for a GPU if ONNX Runtime supports it, else the CPU.

    Raises:
        ConfigError: if a GPU is requested and ONNX Runtime cannot use it.
    """

    def __init__(self, path: str, device: str = "auto"):
        runtime = _import("onnxruntime", path, "export")
        runtime.set_default_logger_severity(3)
        providers = runtime.get_available_providers()
        on_gpu = device.startswith("cuda") or (device == "auto" and "CUDAExecutionProvider" in providers)
        if on_gpu and "CUDAExecutionProvider" not in providers:
            raise ConfigError("this ONNX Runtime has no CUDA support: pip install onnxruntime-gpu, or use device='cpu'")
        gpu = _gpu_index(device) if on_gpu else None
        self.session = _open(path, lambda: start_onnx(path, gpu))
        # ONNX Runtime falls back to the CPU if it cannot load the CUDA libraries.
        on_gpu = "CUDAExecutionProvider" in self.session.get_providers()
        if device.startswith("cuda") and not on_gpu:
            raise ConfigError(f"ONNX Runtime cannot use {device}: check the CUDA libraries, or use device='cpu'")
        self.metadata = Metadata.from_json(self.session.get_modelmeta().custom_metadata_map.get(METADATA_KEY), path)
        images = self.session.get_inputs()[0]
        self.input = images.name
        self.batch_size = images.shape[0] if isinstance(images.shape[0], int) else None
        self.description = f"ONNX Runtime on {device if device.startswith('cuda') else 'cuda' if on_gpu else 'cpu'}"

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        return self.session.run(None, {self.input: images})


class OpenVINOSession:
    """OpenVINO session of an ``.xml`` file; on the CPU unless "gpu" or another of its devices is requested.

    Raises:
        ConfigError: if OpenVINO cannot compile the file for the device.
    """

    def __init__(self, path: str, device: str = "auto"):
        openvino = _import("openvino", path, "openvino")
        name = "CPU" if device in ("auto", "cpu") else device.upper()
        model = _open(path, lambda: openvino.Core().read_model(path))
        text = str(model.get_rt_info(METADATA_KEY).value) if model.has_rt_info(METADATA_KEY) else None
        self.metadata = Metadata.from_json(text, path)
        batch_dimension = model.input().partial_shape[0]
        self.batch_size = batch_dimension.get_length() if batch_dimension.is_static else None
        try:
            self.compiled = compile_openvino(model, name)
        except RuntimeError as error:
            raise ConfigError(f"OpenVINO cannot compile {path} for device {name}: {_last_line(error)}") from error
        self.description = f"OpenVINO on {name}"

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        outputs = self.compiled(images)
        return [outputs[output] for output in self.compiled.outputs]


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


def compile_openvino(model: Any, name: str = "CPU") -> Any:
    """Compile an OpenVINO model or ONNX file for a device; on the CPU with as many threads as torch has."""
    import openvino

    options: dict[str, Any] = {}
    if name == "CPU":
        # The default is bfloat16 on processors that support it, which loses detections.
        options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(model, name, options)


SESSIONS: dict[str, Callable[[str, str], Session]] = {".onnx": OnnxSession, ".xml": OpenVINOSession}


def is_exported(path: str | os.PathLike) -> bool:
    """Return whether a path has the suffix of an exported file."""
    return Path(path).suffix.lower() in SESSIONS


def open_session(path: str, device: str = "auto") -> Session:
    """Open an exported file.

    Raises:
        CheckpointError: if the file does not exist or cannot be read.
        ConfigError: if the runtime is not installed or the device is not available.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"exported model {path} does not exist")
    return SESSIONS[Path(path).suffix.lower()](path, device)


def load_exported(path: str, device: str = "auto") -> ExportedRunner:
    """Open an exported file for prediction; see :func:`open_session`."""
    return ExportedRunner(path, open_session(path, device))


def _import(name: str, path: str, extra: str) -> Any:
    try:
        return __import__(name)
    except ImportError as error:
        raise ConfigError(f"{path} requires {name}: pip install 'deim[{extra}]'") from error


def _open(path: str, open_file: Callable[[], Any]) -> Any:
    try:
        return open_file()
    except Exception as error:  # the runtimes raise their own exceptions, and plain RuntimeErrors
        raise CheckpointError(f"{path} cannot be opened: {_last_line(error)}") from error


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _gpu_index(device: str) -> int:
    """Return 1 for "cuda:1", and 0 for "cuda" and "auto"."""
    index = device.partition(":")[2]
    if index and not index.isdigit():
        raise ConfigError(f"device {device!r} is not available: give a GPU as 'cuda' or 'cuda:1'")
    return int(index or 0)
