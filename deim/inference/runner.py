"""What carries out a model: torch here, exported files elsewhere. All take and give the same."""

import logging
from typing import Protocol

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor, nn

from deim.config import build
from deim.cores import share_cores
from deim.data.mapper import DetectionMapper
from deim.devices import reason_against
from deim.errors import ConfigError
from deim.inference.deployment import to_deployment
from deim.inference.source import TrainedModel

logger = logging.getLogger("detectron2.deim")


class Runner(Protocol):
    """
    Attributes:
        class_names: of the scores.
        description: of what carries it out and where, for a log.
    """

    class_names: list[str]
    description: str

    def prepare(self, image: np.ndarray) -> Tensor:
        """uint8 (H, W, 3) RGB -> uint8 (3, h, w), as the model takes it."""

    def __call__(self, images: list[Tensor], sizes: list[tuple[int, int]]) -> list[Instances]:
        """
        Args:
            images: from :meth:`prepare`.
            sizes: (height, width) of each picture.

        Returns:
            for each the detections in pixels of the picture, on the CPU, best first.
        """


class TorchRunner:
    """A model of torch in its deployed form.

    Args:
        half: float16 where torch deems it safe (autocast), on a device that computes in it.
        compile: by ``torch.compile``.
        cuda_graph: replay what was recorded for batches of a shape; see :func:`to_deployment`.

    Raises:
        ConfigError: its test data are mapped by what knows nothing of single images, or there is nothing to record.
    """

    def __init__(
        self,
        trained: TrainedModel,
        device: torch.device,
        half: bool = False,
        compile: bool = False,
        cuda_graph: bool = False,
    ):
        reason = reason_against(device, torch.float16) if half else None
        if reason is not None:
            logger.warning(f"half is ignored, and predictions are made in float32: {reason}")
            half = False
        self.device, self.half = device, half
        self.class_names = trained.class_names
        self.mapper = build(trained.config, "dataloader.test.mapper")
        if not isinstance(self.mapper, DetectionMapper):
            raise ConfigError(
                f"predicting needs a DetectionMapper as dataloader.test.mapper, not {type(self.mapper).__name__}"
            )
        self.model: nn.Module = to_deployment(
            trained.model.to(self.device), compile=compile, half=half, cuda_graph=cuda_graph
        )
        if self.device.type == "cpu":
            share_cores(self.model)
        self.description = f"torch on {self.device}"

    def prepare(self, image: np.ndarray) -> Tensor:
        return self.mapper.image(image)

    @torch.inference_mode()
    def __call__(self, images: list[Tensor], sizes: list[tuple[int, int]]) -> list[Instances]:
        batch = [
            {"image": image, "height": height, "width": width}
            for image, (height, width) in zip(images, sizes, strict=True)
        ]
        with torch.autocast(self.device.type, torch.float16, enabled=self.half):
            results = self.model(batch)
        return [result["instances"].to("cpu") for result in results]
