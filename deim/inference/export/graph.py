"""What is exported of a detector: everything between the bytes of a picture and its boxes."""

import torch
from torch import Tensor, nn

from deim.errors import ConfigError
from deim.modeling.detector import DEIMDetector, best_detections

INPUT = "images"
# Names of the outputs, with and without post-processing.
DETECTIONS = ("scores", "labels", "boxes")
RAW = ("logits", "boxes")


class DetectionGraph(nn.Module):
    """A detector as a function of one tensor.

    Args:
        detector: in its deployed form.
        postprocess: choose the best detections; without it, the logits and boxes of all queries are returned.

    Raises:
        ConfigError: it is a detector of another project.
    """

    def __init__(self, detector: nn.Module, postprocess: bool = True):
        super().__init__()
        if not isinstance(detector, DEIMDetector):
            raise ConfigError(f"only models of deim.modeling.detector can be exported, not {type(detector).__name__}")
        self.detector, self.postprocess = detector, postprocess

    @property
    def outputs(self) -> tuple[str, ...]:
        return DETECTIONS if self.postprocess else RAW

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """
        Args:
            images: uint8 (B, 3, H, W), in the order of channels of the recipe (RGB in ours). It is normalised inside, and
                bytes cannot be normalised twice by mistake.

        Returns:
            scores (B, N), best first, labels int64 (B, N) and boxes (B, N, 4), XYXY relative to the image; or logits
            (B, Q, K) and boxes (B, Q, 4), cxcywh relative to the image.
        """
        detector = self.detector
        pixels = (images.float() - detector.pixel_mean) / detector.pixel_std
        groups, _ = detector.decoder(detector.encoder(detector.backbone(pixels), None))
        predictions = groups["main"]
        if not self.postprocess:
            return predictions.logits[-1], predictions.boxes[-1]
        scores, labels, boxes = best_detections(predictions, detector.num_detections)
        return scores, labels, boxes.clamp(0, 1)


def example(batch: int, size: tuple[int, int]) -> Tensor:
    """Bytes of noise (batch, 3, height, width), to trace with."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (batch, 3, *size), dtype=torch.uint8, generator=generator)
