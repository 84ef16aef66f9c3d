"""Runners: a common interface for models in torch and exported files."""

import logging
from typing import Protocol

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor, nn

from deim.config import build
from deim.cores import limit_threads_to_free_cores
from deim.data.mapper import DetectionMapper
from deim.devices import amp_unsupported_reason
from deim.errors import ConfigError
from deim.inference.deployment import to_deployment
from deim.inference.trained_model import TrainedModel
from deim.modeling.detector import DEIMDetector
from deim.structures.skeleton import Skeleton

logger = logging.getLogger("detectron2.deim")


class Runner(Protocol):
    """Interface of a loaded model.

    Attributes:
        class_names: classes of the scores.
        description: runtime and device, for logs.
        skeleton: names and connections of the keypoints; None if the model predicts no keypoints.
    """

    class_names: list[str]
    description: str
    skeleton: Skeleton | None

    def prepare(self, image: np.ndarray) -> Tensor:
        """Convert uint8 (H, W, 3) RGB to the input format of the model, uint8 (3, h, w)."""

    def __call__(self, images: list[Tensor], sizes: list[tuple[int, int]], threshold: float = 0.0) -> list[Instances]:
        """Detect objects in a batch.

        Args:
            images: outputs of :meth:`prepare`.
            sizes: original (height, width) of each image.
            threshold: minimum score of the detections.

        Returns:
            detections of each image in pixels of the original image, on the CPU, best first.
        """


class TorchRunner:
    """Runner of a torch model in its deployed form.

    Args:
        half: use float16 autocast, if the device supports it.
        compile: use ``torch.compile``.
        cuda_graph: use CUDA graphs; see :func:`to_deployment`.

    Raises:
        ConfigError: if the mapper of the test data is not a DetectionMapper, or CUDA graphs are not supported.
    """

    def __init__(
        self,
        trained: TrainedModel,
        device: torch.device,
        half: bool = False,
        compile: bool = False,
        cuda_graph: bool = False,
    ):
        reason = amp_unsupported_reason(device, torch.float16) if half else None
        if reason is not None:
            logger.warning(f"Ignoring half and predicting in float32: {reason}")
            half = False
        self.device, self.half = device, half
        self.class_names, self.skeleton = trained.class_names, trained.skeleton
        self.mapper = build(trained.config, "dataloader.test.mapper")
        if not isinstance(self.mapper, DetectionMapper):
            raise ConfigError(
                f"prediction requires a DetectionMapper as dataloader.test.mapper, got {type(self.mapper).__name__}"
            )
        self.model: nn.Module = to_deployment(
            trained.model.to(self.device), compile=compile, half=half, cuda_graph=cuda_graph
        )
        if self.device.type == "cpu":
            limit_threads_to_free_cores(self.model)
        self.description = f"torch on {self.device}"

    def prepare(self, image: np.ndarray) -> Tensor:
        return self.mapper.map_image(image)

    @torch.inference_mode()
    def __call__(self, images: list[Tensor], sizes: list[tuple[int, int]], threshold: float = 0.0) -> list[Instances]:
        batch = [
            {"image": image, "height": height, "width": width}
            for image, (height, width) in zip(images, sizes, strict=True)
        ]
        with torch.autocast(self.device.type, torch.float16, enabled=self.half):
            # Models of detrex have no threshold.
            is_deim = isinstance(self.model, DEIMDetector)
            results = self.model(batch, threshold) if is_deim else self.model(batch)
        instances = [result["instances"].to("cpu") for result in results]
        return instances if is_deim else [detections[detections.scores >= threshold] for detections in instances]
