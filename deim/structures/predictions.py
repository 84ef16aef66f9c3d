"""Decoder predictions and ground truth: the inputs of the criterion."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
    """

    logits: Tensor
    boxes: Tensor
    edges: EdgeDistributions | None = None

    @staticmethod
    def join(layers: Sequence["Predictions"]) -> "Predictions":
        """Stack the predictions of one set of queries over layers; either all or none have distributions."""
        edges = [layer.edges for layer in layers if layer.edges is not None]
        return Predictions(
            torch.cat([layer.logits for layer in layers]),
            torch.cat([layer.boxes for layer in layers]),
            EdgeDistributions.join(edges) if edges else None,
        )

    def split(self, sizes: list[int]) -> list["Predictions"]:
        """Split along the query dimension."""
        edges = [None] * len(sizes) if self.edges is None else self.edges.split(sizes)
        parts = zip(self.logits.split(sizes, dim=2), self.boxes.split(sizes, dim=2), edges, strict=True)
        return [Predictions(*part) for part in parts]

    def in_full_precision(self) -> "Predictions":
        """Return the predictions in float32 (float64 stays unchanged), the precision of the losses."""
        edges = None if self.edges is None else self.edges.in_full_precision()
        return Predictions(in_full_precision(self.logits), in_full_precision(self.boxes), edges)


@dataclass
class Targets:
    """Ground truth of a batch, padded to the largest number of objects T in it.

    Attributes:
        labels: (B, T) int64, 0 for padding.
        boxes: (B, T, 4) float32 cxcywh, relative to the image without padding; 0 for padding.
        counts: number of objects in each image, on the host.
    """

    labels: Tensor
    boxes: Tensor
    counts: list[int]

    @property
    def total(self) -> int:
        return sum(self.counts)

    @property
    def valid(self) -> Tensor:
        """(B, T) bool, False for padding."""
        counts = torch.tensor(self.counts).to(self.labels.device, non_blocking=True)
        return torch.arange(self.labels.shape[1], device=self.labels.device) < counts[:, None]

    def without_classes(self) -> "Targets":
        """Return the targets with all labels set to 0."""
        return Targets(torch.zeros_like(self.labels), self.boxes, self.counts)

    @staticmethod
    def collate(labels: list[Tensor], boxes: list[Tensor]) -> "Targets":
        """Create targets from one label tensor (n_i,) and one box tensor (n_i, 4) per image."""
        return Targets(
            torch.nn.utils.rnn.pad_sequence([image_labels.long() for image_labels in labels], batch_first=True),
            torch.nn.utils.rnn.pad_sequence(
                [in_full_precision(image_boxes) for image_boxes in boxes], batch_first=True
            ),
            [len(image_labels) for image_labels in labels],
        )
