"""The meta-architecture: detectron2's inputs in, a dict of losses or Instances out."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.structures import Boxes, ImageList, Instances
from detrex.layers import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from torch import Tensor, nn

from deim.layers.tracing import tensor_of_sizes
from deim.modeling.losses import Criterion
from deim.structures.precision import in_full_precision
from deim.structures.predictions import Predictions, Targets


class DEIMDetector(nn.Module):
    """Backbone, encoder and decoder; with a criterion, trainable.

    Args:
        backbone: images -> {name: feature map}.
        encoder: (features, padding) -> list of maps, or a memory; or a function that builds such a module for ``backbone``,
            see :meth:`deim.modeling.HybridEncoder.for_backbone`.
        decoder: (what the encoder returns, targets, padding) -> ({name: Predictions}, denoising queries).
        criterion: None for inference alone.
        num_classes: K.
        num_detections: the best scores per image that are returned, over all queries and classes.
        pixel_mean, pixel_std: of red, green and blue; images in [0, 255] are normalized by them.
        input_format: "RGB" or "BGR", the order of the channels of images. The data set mapper decides it; in detectron2 it is
            the mapper's ``image_format``.
        size_divisibility: height and width of a batch are padded to a multiple of this.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        encoder: nn.Module | Callable[[nn.Module], nn.Module],
        decoder: nn.Module,
        criterion: Criterion | None = None,
        num_classes: int = 80,
        num_detections: int = 300,
        pixel_mean: Sequence[float] = (0.0, 0.0, 0.0),
        pixel_std: Sequence[float] = (255.0, 255.0, 255.0),
        size_divisibility: int = 32,
        input_format: str = "RGB",
    ):
        super().__init__()
        if input_format not in ("RGB", "BGR"):
            raise ValueError(f"input_format must be RGB or BGR, got {input_format!r}")
        self.input_format = input_format
        self.backbone = backbone
        self.encoder = encoder if isinstance(encoder, nn.Module) else encoder(backbone)
        self.decoder, self.criterion = decoder, criterion
        self.num_classes, self.num_detections = num_classes, num_detections
        self.size_divisibility = size_divisibility
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    def reparameterize(self) -> None:
        """Drop what only training needs."""
        self.criterion = None

    def __prepare_scriptable__(self) -> "DEIMDetector":
        """Refuse ``torch.jit.script``, which calls this first.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "DEIMDetector cannot be scripted, since its parts are chosen by Python code. Trace it (torch.jit.trace with "
            "detectron2's TracingAdapter; the graph takes images of any size), or write a file with `deim export`"
        )

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """
        Args:
            batched_inputs: one dict per image: ``image`` (3, H, W) in [0, 255], in the order of ``input_format``, in training
                ``instances`` with ``gt_boxes`` (absolute XYXY) and ``gt_classes``, in inference
                optionally ``height`` and ``width`` of the result.

        Returns:
            in training {loss name: () tensor}; in inference one {"instances": Instances} per image
            with ``pred_boxes``, ``scores`` and ``pred_classes``, best first.
        """
        images, padding = self._batch([x["image"] for x in batched_inputs])
        targets = self._targets(batched_inputs, images.image_sizes) if self.training else None
        if targets is None:
            return self._instances(self.detect(images.tensor, padding), batched_inputs, images)
        if self.criterion is None:
            raise RuntimeError("this model has no criterion and cannot be trained")
        groups, denoising = self.decoder(self.encode(images.tensor, padding), targets, padding)
        with torch.autocast(self.device.type, enabled=False):
            return self.criterion(groups, targets, denoising)

    def encode(self, images: Tensor, padding: Tensor | None = None) -> Any:
        """
        Args:
            images: (B, 3, H, W) normalized.
            padding: (B, H, W) bool, True where padded; None where nothing is.

        Returns:
            what the decoder takes.
        """
        return self.encoder(self.backbone(images), padding)

    def detect(self, images: Tensor, padding: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """:func:`best_detections` of images; see :meth:`encode`."""
        groups, _ = self.decoder(self.encode(images, padding), None, padding)
        return best_detections(groups["main"], self.num_detections)

    def normalize(self, images: Tensor) -> Tensor:
        """Return (..., 3, H, W) images as the backbone takes them: RGB, normalized.

        Args:
            images: in [0, 255], in the order of ``input_format``.
        """
        if self.input_format == "BGR":
            images = images.flip(-3)
        return (images - self.pixel_mean) / self.pixel_std

    def _batch(self, images: list[Tensor]) -> tuple[ImageList, Tensor | None]:
        """Normalized images in one tensor, and the (B, H, W) mask of padded pixels if there are any."""
        divisor = self.size_divisibility
        sizes = {tuple(image.shape[-2:]) for image in images}
        # A traced graph also serves images of other sizes, for which it must be able to pad.
        if not torch.jit.is_tracing() and len(sizes) == 1 and all(side % divisor == 0 for side in next(iter(sizes))):
            # Bytes travel to the device, each image from where it is, and one kernel normalizes them all.
            batch = torch.stack([image.to(self.device, non_blocking=True) for image in images]).contiguous()
            size = (int(batch.shape[-2]), int(batch.shape[-1]))
            return ImageList(self.normalize(batch), [size] * len(images)), None
        normalized = [self.normalize(image.to(self.device)) for image in images]
        batched = ImageList.from_tensors(normalized, divisor)
        return batched, padded_pixels(batched)

    def _targets(self, batched_inputs: list[dict], sizes: Sequence[tuple[int, int]]) -> Targets:
        """Ground truth relative to each image's size (height, width), on the device."""
        instances = [x["instances"] for x in batched_inputs]
        targets = Targets.collate([one.gt_classes for one in instances], [one.gt_boxes.tensor for one in instances])
        boxes = box_xyxy_to_cxcywh(targets.boxes / _scales(sizes))
        labels = targets.labels.to(self.device, non_blocking=True)
        return Targets(labels, boxes.to(self.device, non_blocking=True), targets.counts)

    def _instances(
        self, found: tuple[Tensor, Tensor, Tensor], batched_inputs: list[dict], images: ImageList
    ) -> list[dict[str, Instances]]:
        sizes = [
            (given.get("height", height), given.get("width", width))
            for given, (height, width) in zip(batched_inputs, images.image_sizes, strict=True)
        ]
        scores, classes, boxes = found
        limits = _scales(sizes).to(boxes.device, non_blocking=True)
        # Boxes.clip would wait for the device, once for each image.
        boxes = torch.minimum((boxes * limits).clamp(min=0), limits)
        results = []
        for size, places, best, labels in zip(sizes, boxes, scores, classes, strict=True):
            instances = Instances(size, pred_boxes=Boxes(places), scores=best, pred_classes=labels)
            results.append({"instances": instances})
        return results


def padded_pixels(images: ImageList) -> Tensor:
    """Return (B, H, W) bool, True where a pixel of the batch is padding.

    Nothing is assigned in place, since torch.onnx drops assignments to views of a traced graph.
    """
    height, width = images.tensor.shape[-2:]
    device = images.tensor.device
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    return torch.stack([(rows >= h)[:, None] | (columns >= w) for h, w in images.image_sizes])


def _scales(sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Return (B, 1, 4) float32 width, height, width, height of images of (height, width)."""
    return tensor_of_sizes([(width, height, width, height) for height, width in sizes])[:, None]


def best_detections(predictions: Predictions, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best (query, class) pairs of the last layer.

    Returns:
        scores (B, N) in descending order, classes (B, N) int64, and boxes (B, N, 4) XYXY relative
        to the image; N is ``count``, or all there are.
    """
    logits, boxes = (in_full_precision(one[-1]) for one in (predictions.logits, predictions.boxes))
    num_classes = logits.shape[-1]
    flat = logits.flatten(1)
    scores, index = flat.sigmoid().topk(min(count, flat.shape[1]), dim=1)
    query = index // num_classes  # torch.div would be exported as a division of floats, which float16 cannot hold
    picked = boxes.gather(1, query[..., None].expand(-1, -1, 4))
    return scores, index % num_classes, box_cxcywh_to_xyxy(picked)
