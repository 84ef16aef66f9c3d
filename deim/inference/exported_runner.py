"""Inference with exported files."""

import os
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from deim.errors import CheckpointError, ConfigError
from deim.inference.export.formats import exporter_of, find_exporter
from deim.inference.export.interfaces import network_inputs, relative_outputs
from deim.inference.export.metadata import STRIDE
from deim.inference.export.session import Session
from deim.inference.images import to_network_input
from deim.structures.keypoints import scored_keypoints
from deim.structures.mask_images import resize_masks
from deim.structures.skeleton import Skeleton


class ExportedRunner:
    """:class:`~deim.inference.runner.Runner` of an exported file."""

    def __init__(self, path: str, session: Session):
        metadata = session.metadata
        if not metadata.postprocess:
            raise ConfigError(
                f"{path} returns logits instead of detections: export it without --raw and with the interface deim or "
                "official to predict with it"
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
            for position, index in enumerate(indices):
                image_outputs = {name: output[position] for name, output in outputs.items()}
                results[index] = _instances(sizes[index], (shape[1], shape[2]), image_outputs, threshold)
        return [results[index] for index in range(len(images))]

    def _run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run the file on images of the same size; return its outputs by name, relative to the images.

        A fixed batch size splits the images. The last batch is then filled with copies of the last image.
        """
        size = self.session.batch_size or len(images)
        batches = [
            self.session(
                *network_inputs(self.metadata, images[np.arange(start, start + size).clip(max=len(images) - 1)])
            )
            for start in range(0, len(images), size)
        ]
        outputs = [np.concatenate(parts)[: len(images)] for parts in zip(*batches, strict=True)]
        return relative_outputs(self.metadata, outputs, (images.shape[2], images.shape[3]))


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


def is_exported(path: str | os.PathLike) -> bool:
    """Return whether a path has the suffix of an exported file."""
    return find_exporter(path) is not None


def open_session(path: str, device: str = "auto") -> Session:
    """Open an exported file.

    Raises:
        CheckpointError: if the file does not exist or cannot be read.
        ConfigError: if the runtime is not installed or the device is not available.
    """
    if not Path(path).exists():
        raise CheckpointError(f"exported model {path} does not exist")
    return exporter_of(path).open(path, device)


def load_exported(path: str, device: str = "auto") -> ExportedRunner:
    """Open an exported file for prediction; see :func:`open_session`."""
    return ExportedRunner(path, open_session(path, device))
