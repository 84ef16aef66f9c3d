"""Decoder predictions and ground truth: the inputs of the criterion."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from deim.structures.masks import MaskPredictions
from deim.structures.precision import in_full_precision


@dataclass
class EdgeDistributions:
    """Distributions of the box edge offsets; see :mod:`deim.structures.distribution`.

    Attributes:
        corners: (L, B, Q, 4, reg_max + 1) logits.
        references: (B, Q, 4) cxcywh boxes that the distributions refine, without gradient.
        bin_values: (reg_max + 1,) bin values in units of ``side / reg_scale``.
        reg_scale: (1,).
    """

    corners: Tensor
    references: Tensor
    bin_values: Tensor
    reg_scale: Tensor

    @staticmethod
    def join(layers: Sequence["EdgeDistributions"]) -> "EdgeDistributions":
        """Stack the distributions of several layers, which refine the same boxes."""
        corners = torch.cat([layer.corners for layer in layers])
        return EdgeDistributions(corners, layers[0].references, layers[0].bin_values, layers[0].reg_scale)

    def split(self, sizes: list[int]) -> list["EdgeDistributions"]:
        """Split along the query dimension."""
        parts = zip(self.corners.split(sizes, dim=2), self.references.split(sizes, dim=1), strict=True)
        return [EdgeDistributions(*part, self.bin_values, self.reg_scale) for part in parts]

    def in_full_precision(self) -> "EdgeDistributions":
        """Return the distributions in float32; float64 stays unchanged."""
        corners, references = in_full_precision(self.corners), in_full_precision(self.references)
        return EdgeDistributions(corners, references, self.bin_values, self.reg_scale)


@dataclass
class Predictions:
    """Predictions of one set of queries, stacked over decoder layers.

    Attributes:
        logits: (L, B, Q, K) class logits.
        boxes: (L, B, Q, 4) cxcywh, relative to the image without padding.
        edges: distributions that the boxes were decoded from, or None.
        masks: masks of the queries, or None.
        keypoints: (L, B, Q, P, 2) x and y of P keypoints, relative to the image without padding, or None.
    """

    logits: Tensor
    boxes: Tensor
    edges: EdgeDistributions | None = None
    masks: MaskPredictions | None = None
    keypoints: Tensor | None = None

    @staticmethod
    def join(layers: Sequence["Predictions"]) -> "Predictions":
        """Stack the predictions of one set of queries over layers; either all or none have an optional field."""
        edges = [layer.edges for layer in layers if layer.edges is not None]
        masks = [layer.masks for layer in layers if layer.masks is not None]
        keypoints = [layer.keypoints for layer in layers if layer.keypoints is not None]
        return Predictions(
            torch.cat([layer.logits for layer in layers]),
            torch.cat([layer.boxes for layer in layers]),
            EdgeDistributions.join(edges) if edges else None,
            MaskPredictions.join(masks) if masks else None,
            torch.cat(keypoints) if keypoints else None,
        )

    def split(self, sizes: list[int]) -> list["Predictions"]:
        """Split along the query dimension."""
        absent = [None] * len(sizes)
        parts = zip(
            self.logits.split(sizes, dim=2),
            self.boxes.split(sizes, dim=2),
            absent if self.edges is None else self.edges.split(sizes),
            absent if self.masks is None else self.masks.split(sizes),
            absent if self.keypoints is None else self.keypoints.split(sizes, dim=2),
            strict=True,
        )
        return [Predictions(*part) for part in parts]

    def in_full_precision(self) -> "Predictions":
        """Return the predictions in float32 (float64 stays unchanged), the precision of the losses.

        Masks are unchanged: their methods return logits in this precision.
        """
        return Predictions(
            in_full_precision(self.logits),
            in_full_precision(self.boxes),
            None if self.edges is None else self.edges.in_full_precision(),
            self.masks,
            None if self.keypoints is None else in_full_precision(self.keypoints),
        )


@dataclass
class Targets:
    """Ground truth of a batch, padded to the largest number of objects T in it.

    Attributes:
        labels: (B, T) int64, 0 for padding.
        boxes: (B, T, 4) float32 cxcywh, relative to the image without padding; 0 for padding.
        counts: number of objects in each image, on the host.
        masks: (B, T, h, w) uint8, 1 inside of the object, at any resolution; they cover the batch including the padding
            of the images. None if the ground truth has no masks.
        keypoints: (B, T, P, 3) float32: x and y relative to the image without padding, and visibility: 0 (not labeled),
            1 (occluded) or 2 (visible). None if the ground truth has no keypoints.
        areas: (B, T) areas of the objects, relative to the area of the image without padding; None if the ground truth
            has only boxes.
    """

    labels: Tensor
    boxes: Tensor
    counts: list[int]
    masks: Tensor | None = None
    keypoints: Tensor | None = None
    areas: Tensor | None = None

    @property
    def object_areas(self) -> Tensor:
        """(B, T) areas of the objects, or of their boxes if the areas are unknown; relative to the image."""
        return self.boxes[..., 2:].prod(dim=-1) if self.areas is None else self.areas

    @property
    def total(self) -> int:
        return sum(self.counts)

    @property
    def valid(self) -> Tensor:
        """(B, T) bool, False for padding."""
        counts = torch.tensor(self.counts).to(self.labels.device, non_blocking=True)
        return torch.arange(self.labels.shape[1], device=self.labels.device) < counts[:, None]

    @cached_property
    def has_mask(self) -> Tensor:
        """(B, T) bool, False for padding and for objects with an empty mask."""
        assert self.masks is not None
        return self.masks.flatten(2).any(dim=-1)

    def without_classes(self) -> "Targets":
        """Return the targets with all labels set to 0."""
        return replace(self, labels=torch.zeros_like(self.labels))

    @staticmethod
    def collate(
        labels: list[Tensor],
        boxes: list[Tensor],
        masks: list[Tensor] | None = None,
        keypoints: list[Tensor] | None = None,
        areas: list[Tensor] | None = None,
    ) -> "Targets":
        """Create targets from one tensor per image and field.

        Args:
            labels: (n_i,) classes of the objects of each image.
            boxes: (n_i, 4).
            masks: (n_i, h, w), of the same size in all images.
            keypoints: (n_i, P, 3).
            areas: (n_i,).
        """
        return Targets(
            pad_sequence([image_labels.long() for image_labels in labels], batch_first=True),
            pad_sequence([in_full_precision(image_boxes) for image_boxes in boxes], batch_first=True),
            [len(image_labels) for image_labels in labels],
            None if masks is None else pad_sequence(masks, batch_first=True),
            None if keypoints is None else pad_sequence(keypoints, batch_first=True),
            None if areas is None else pad_sequence(areas, batch_first=True),
        )
