"""Meta-architecture with detectron2's interface: list of dicts in, dict of losses or list of Instances out."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.structures import Boxes, ImageList, Instances
from detrex.layers import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from deim.errors import DatasetError
from deim.layers.tracing import sizes_to_tensor
from deim.modeling.decoder.heads import HEAD_FIELDS
from deim.modeling.encoder.backbone_features import finest_stride
from deim.modeling.losses import Criterion
from deim.structures.keypoints import scored_keypoints
from deim.structures.mask_images import DeferredMasks, batch_masks
from deim.structures.precision import in_full_precision
from deim.structures.prediction_group import PredictionGroup
from deim.structures.predictions import Predictions, Targets


class DetectionBatch(NamedTuple):
    """The N best detections of each image of a batch.

    Attributes:
        scores: (B, N) in descending order.
        classes: (B, N) int64.
        boxes: (B, N, 4) XYXY, relative to the image without padding.
        masks: (B, N, h, w) logits, covering the batch including its padding; None if the model predicts no masks.
        keypoints: (B, N, P, 2) x and y, relative to the image without padding; None if the model predicts none.
    """

    scores: Tensor
    classes: Tensor
    boxes: Tensor
    masks: Tensor | None = None
    keypoints: Tensor | None = None


class DEIMDetector(nn.Module):
    """Detector of backbone, encoder and decoder; trainable with a criterion.

    Args:
        backbone: images -> {name: feature map}.
        encoder: (features, padding) -> list of maps, or a memory; or a function that builds such a module for
            ``backbone``, see :meth:`deim.modeling.HybridEncoder.for_backbone`.
        decoder: (output of the encoder, targets, padding) -> ({name: Predictions}, denoising queries).
        criterion: loss computation; None for inference only.
        num_classes: K.
        num_detections: number of returned detections per image: the best scores over all queries and classes.
        pixel_mean, pixel_std: normalization of images in [0, 255], per channel in RGB order.
        input_format: "RGB" or "BGR", the channel order of the images. It must match the dataset mapper's; in detectron2
            this is the mapper's ``image_format``.
        size_divisibility: height and width of a batch are padded to a multiple of this value and, if the model predicts
            masks, of the stride of the backbone's finest map, so that the masks cover the batch exactly.

    Raises:
        ValueError: if ``input_format`` is invalid.
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
        if "masks" in self.predicted_fields:
            self.size_divisibility = math.lcm(size_divisibility, finest_stride(self.backbone))
        self.defers_masks = False  # whether predicted masks are DeferredMasks
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    def remove_training_parts(self) -> None:
        """Remove the parts that only training needs."""
        self.criterion = None

    def __prepare_scriptable__(self) -> "DEIMDetector":
        """Reject ``torch.jit.script``, which calls this method first.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "DEIMDetector cannot be scripted because Python code selects its parts. Trace it (torch.jit.trace with "
            "detectron2's TracingAdapter; the graph accepts images of any size), or export it with `deim export`"
        )

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(
        self, batched_inputs: list[dict], threshold: float = 0.0
    ) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Compute losses in training mode, detections in inference mode.

        Args:
            batched_inputs: one dict per image: ``image`` (3, H, W) in [0, 255], in the channel order ``input_format``;
                in training ``instances`` with ``gt_boxes`` (absolute XYXY) and ``gt_classes``, ``gt_masks`` or
                ``gt_keypoints`` if the model predicts these, and optionally ``gt_areas`` (N,) in square pixels for the
                similarity of keypoints; in inference optionally ``height`` and ``width`` of the
                result.
            threshold: minimum score of the detections in inference. The masks of other detections are not resized.

        Returns:
            in training {loss name: () tensor}; in inference one {"instances": Instances} per image with
            ``pred_boxes``, ``scores`` and ``pred_classes``, best score first. If the model predicts them, also
            ``pred_masks`` (N, height, width) bool, and ``pred_keypoints`` (N, P, 3): x and y in pixels, and the score
            of the detection.

        Raises:
            RuntimeError: if the model is in training mode and has no criterion.
            DatasetError: if the model predicts masks or keypoints, and the instances have none, or another number of
                keypoints.
        """
        images, padding = self._batch([x["image"] for x in batched_inputs])
        targets = None
        if self.training:
            padded_size = (images.tensor.shape[-2], images.tensor.shape[-1])
            targets = self._targets(batched_inputs, images.image_sizes, padded_size)
        if targets is None:
            return self._instances(self.detect(images.tensor, padding), batched_inputs, images, threshold)
        if self.criterion is None:
            raise RuntimeError("this model has no criterion and cannot be trained")
        groups, denoising = self.decoder(self.encode(images.tensor, padding), targets, padding)
        with torch.autocast(self.device.type, enabled=False):
            return self.criterion(groups, targets, denoising)

    def encode(self, images: Tensor, padding: Tensor | None = None) -> Any:
        """Run backbone and encoder.

        Args:
            images: (B, 3, H, W) normalized.
            padding: (B, H, W) bool, True on padded pixels; None without padding.

        Returns:
            input of the decoder.
        """
        return self.encoder(self.backbone(images), padding)

    def detect(self, images: Tensor, padding: Tensor | None = None) -> DetectionBatch:
        """Return the best detections in normalized images; for arguments see :meth:`encode`."""
        groups, _ = self.decoder(self.encode(images, padding), None, padding)
        return best_detections(groups[PredictionGroup.MAIN], self.num_detections)

    def normalize(self, images: Tensor) -> Tensor:
        """Convert (..., 3, H, W) images to the backbone's input: RGB, normalized.

        Args:
            images: in [0, 255], in the channel order ``input_format``.
        """
        if self.input_format == "BGR":
            images = images.flip(-3)
        return (images - self.pixel_mean) / self.pixel_std

    def _batch(self, images: list[Tensor]) -> tuple[ImageList, Tensor | None]:
        """Return normalized images in one tensor, and the (B, H, W) mask of padded pixels, None without padding."""
        divisor = self.size_divisibility
        sizes = {tuple(image.shape[-2:]) for image in images}
        # A traced graph is also used for images of other sizes, so it must contain the padding.
        if not torch.jit.is_tracing() and len(sizes) == 1 and all(side % divisor == 0 for side in next(iter(sizes))):
            # Transfer uint8 images one by one, without a copy on the host, and normalize them with one kernel.
            batch = torch.stack([image.to(self.device, non_blocking=True) for image in images]).contiguous()
            size = (int(batch.shape[-2]), int(batch.shape[-1]))
            return ImageList(self.normalize(batch), [size] * len(images)), None
        normalized = [self.normalize(image.to(self.device)) for image in images]
        batched = ImageList.from_tensors(normalized, divisor)
        return batched, padded_pixels(batched)

    def _targets(
        self, batched_inputs: list[dict], sizes: Sequence[tuple[int, int]], padded_size: tuple[int, int]
    ) -> Targets:
        """Return ground truth on the device. Boxes and keypoints are relative to each image's size (height, width)."""
        instances = [x["instances"] for x in batched_inputs]
        targets = Targets.collate([x.gt_classes for x in instances], [x.gt_boxes.tensor for x in instances])
        boxes = box_xyxy_to_cxcywh(targets.boxes / _scales(sizes))
        labels = targets.labels.to(self.device, non_blocking=True)
        return Targets(
            labels,
            boxes.to(self.device, non_blocking=True),
            targets.counts,
            self._target_masks(instances, padded_size),
            self._target_keypoints(instances, sizes),
            self._target_areas(instances, sizes),
        )

    def _target_masks(self, instances: Sequence[Instances], padded_size: tuple[int, int]) -> Tensor | None:
        """Return the (B, T, h, w) masks of the objects on the device; None if the model predicts no masks."""
        if not self._requires("masks", instances):
            return None
        masks = [(x.gt_masks if x.has("gt_masks") else None, x.image_size) for x in instances]
        return batch_masks(masks, padded_size, self.device)

    def _target_keypoints(self, instances: Sequence[Instances], sizes: Sequence[tuple[int, int]]) -> Tensor | None:
        """Return the (B, T, P, 3) keypoints of the objects on the device; None if the model predicts none.

        Raises:
            DatasetError: if the objects have another number of keypoints than the model predicts.
        """
        if not self._requires("keypoints", instances):
            return None
        count = getattr(self.decoder, "num_keypoints", None)
        counts = {x.gt_keypoints.tensor.shape[1] for x in instances if x.has("gt_keypoints")}
        if count is not None and not counts <= {count}:
            part = "heads.keypoints" if "keypoints" in getattr(self.decoder, "heads", ()) else "queries"
            raise DatasetError(
                f"the model predicts {count} keypoints of an object, but the training data has "
                f"{max(counts - {count})}: set model.decoder.{part}.num_keypoints to the number of keypoints of the "
                "data"
            )
        missing = torch.zeros(0, max(counts, default=count or 0), 3)
        fields = [x.gt_keypoints.tensor if x.has("gt_keypoints") else missing for x in instances]
        keypoints = pad_sequence(fields, True)
        limits = torch.cat([_scales(sizes)[..., :2], torch.ones(len(sizes), 1, 1)], dim=-1)
        return (keypoints / limits[:, None]).to(self.device, non_blocking=True)

    def _target_areas(self, instances: Sequence[Instances], sizes: Sequence[tuple[int, int]]) -> Tensor | None:
        """Return the (B, T) areas of the objects on the device; None if the samples have no ``gt_areas``."""
        if "keypoints" not in self.predicted_fields or not all(x.has("gt_areas") for x in instances):
            return None
        areas = pad_sequence([x.gt_areas.to(torch.get_default_dtype()) for x in instances], True)
        limits = _scales(sizes)[:, 0, :2].prod(dim=-1, keepdim=True)
        return (areas / limits).to(self.device, non_blocking=True)

    def _requires(self, field: str, instances: Sequence[Instances]) -> bool:
        """Return True if the model predicts a field, which the ground truth then must contain.

        Images without objects may lack it: the mappers of detectron2 do not add masks and keypoints to them.
        """
        if field not in self.predicted_fields:
            return False
        if not all(x.has(f"gt_{field}") for x in instances if len(x)):
            alternative = (
                f", or set model.decoder.heads.{field}=null" if field in getattr(self.decoder, "heads", ()) else ""
            )
            raise DatasetError(
                f"the model predicts {field}, but the training data has none: set dataloader.train.mapper.{field}=True and "
                f"use a dataset with annotated {field}{alternative}"
            )
        return True

    @property
    def predicted_fields(self) -> tuple[str, ...]:
        """Optional fields of the predictions, such as ``masks``, in the order of :class:`DetectionBatch`."""
        predicted = getattr(self.decoder, "predicted_fields", ())
        return tuple(field for field in HEAD_FIELDS if field in predicted)

    def _instances(
        self, detections: DetectionBatch, batched_inputs: list[dict], images: ImageList, threshold: float
    ) -> list[dict[str, Instances]]:
        sizes = [
            (image_input.get("height", height), image_input.get("width", width))
            for image_input, (height, width) in zip(batched_inputs, images.image_sizes, strict=True)
        ]
        scores, classes, boxes, masks, keypoints = detections
        limits = _scales(sizes).to(boxes.device, non_blocking=True)
        # Boxes.clip would synchronize with the device once per image.
        boxes = torch.minimum((boxes * limits).clamp(min=0), limits)
        results = []
        for size, image_boxes, image_scores, labels in zip(sizes, boxes, scores, classes, strict=True):
            instances = Instances(size, pred_boxes=Boxes(image_boxes), scores=image_scores, pred_classes=labels)
            results.append({"instances": instances})
        if keypoints is not None:
            for result, points, image_scores in zip(results, keypoints * limits[:, None, :, :2], scores, strict=True):
                result["instances"].pred_keypoints = scored_keypoints(points, image_scores)
        if threshold > 0:
            # Scores are in descending order. Counting synchronizes with the device once per batch.
            for result, count in zip(results, (scores >= threshold).sum(dim=1).tolist(), strict=True):
                result["instances"] = result["instances"][:count]
        if masks is not None:
            padded_size = (images.tensor.shape[-2], images.tensor.shape[-1])
            for result, logits, image_size in zip(results, masks, images.image_sizes, strict=True):
                instances = result["instances"]
                deferred = DeferredMasks(logits[: len(instances)], image_size, padded_size, instances.image_size)
                instances.pred_masks = deferred if self.defers_masks else deferred.to(logits.device)
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
    """Return (B, 1, 4) float32 [width, height, width, height] for images of (height, width)."""
    return sizes_to_tensor([(width, height, width, height) for height, width in sizes])[:, None]


def best_detections(predictions: Predictions, count: int) -> DetectionBatch:
    """Return the best (query, class) pairs of the last layer.

    Returns:
        N detections per image; N is ``count``, or the number of pairs if it is smaller.
    """
    logits, boxes = (in_full_precision(layers[-1]) for layers in (predictions.logits, predictions.boxes))
    num_classes = logits.shape[-1]
    flat = logits.flatten(1)
    scores, index = flat.sigmoid().topk(min(count, flat.shape[1]), dim=1)
    query = index // num_classes  # torch.div is exported as a float division, which overflows float16
    selected = boxes.gather(1, query[..., None].expand(-1, -1, 4))
    masks = None if predictions.masks is None else predictions.masks.select(-1, query)
    keypoints = None
    if predictions.keypoints is not None:
        last = in_full_precision(predictions.keypoints[-1])
        keypoints = last.gather(1, query[..., None, None].expand(-1, -1, *last.shape[2:]))
    return DetectionBatch(scores, index % num_classes, box_cxcywh_to_xyxy(selected), masks, keypoints)
