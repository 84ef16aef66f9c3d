"""What a decoder hands to the criterion."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deim.structures.precision import in_full_precision


@dataclass
class EdgeDistributions:
    """Where the edges of boxes lie, as distributions; see :mod:`deim.structures.distribution`.

    Attributes:
        corners: (L, B, Q, 4, reg_max + 1) logits.
        references: (B, Q, 4) cxcywh boxes that the distributions refine, without gradient.
        bin_values: (reg_max + 1,) values of the bins, in units of ``side / reg_scale``.
        reg_scale: (1,).
    """

    corners: Tensor
    references: Tensor
    bin_values: Tensor
    reg_scale: Tensor

    @staticmethod
    def join(layers: Sequence["EdgeDistributions"]) -> "EdgeDistributions":
        """Stack what refines the same boxes over layers."""
        corners = torch.cat([one.corners for one in layers])
        return EdgeDistributions(corners, layers[0].references, layers[0].bin_values, layers[0].reg_scale)

    def split(self, sizes: list[int]) -> list["EdgeDistributions"]:
        """Cut along the queries."""
        parts = zip(self.corners.split(sizes, dim=2), self.references.split(sizes, dim=1), strict=True)
        return [EdgeDistributions(*part, self.bin_values, self.reg_scale) for part in parts]

    def in_full_precision(self) -> "EdgeDistributions":
        """In float32, or float64 if they are."""
        corners, references = in_full_precision(self.corners), in_full_precision(self.references)
        return EdgeDistributions(corners, references, self.bin_values, self.reg_scale)


@dataclass
class Predictions:
    """One set of queries, stacked over decoder layers.

    Attributes:
        logits: (L, B, Q, K) class logits.
        boxes: (L, B, Q, 4) cxcywh, relative to the image without padding.
        edges: the distributions that the boxes were decoded from, or None.
    """

    logits: Tensor
    boxes: Tensor
    edges: EdgeDistributions | None = None

    @staticmethod
    def join(layers: Sequence["Predictions"]) -> "Predictions":
        """Stack the predictions of a set of queries over layers; all have distributions, or none."""
        edges = [one.edges for one in layers if one.edges is not None]
        return Predictions(
            torch.cat([one.logits for one in layers]),
            torch.cat([one.boxes for one in layers]),
            EdgeDistributions.join(edges) if edges else None,
        )

    def split(self, sizes: list[int]) -> list["Predictions"]:
        """Cut along the queries."""
        edges = [None] * len(sizes) if self.edges is None else self.edges.split(sizes)
        parts = zip(self.logits.split(sizes, dim=2), self.boxes.split(sizes, dim=2), edges, strict=True)
        return [Predictions(*part) for part in parts]

    def in_full_precision(self) -> "Predictions":
        """In float32, or float64 if they are: losses are computed so whatever the precision of the network."""
        edges = None if self.edges is None else self.edges.in_full_precision()
        return Predictions(in_full_precision(self.logits), in_full_precision(self.boxes), edges)


@dataclass
class Targets:
    """Ground truth of a batch, padded to the largest number of objects T in it.

    Attributes:
        labels: (B, T) int64, 0 where padded.
        boxes: (B, T, 4) float32 cxcywh relative to the image without padding, 0 where there is no object.
        counts: objects of each image, on the host.
    """

    labels: Tensor
    boxes: Tensor
    counts: list[int]

    @property
    def total(self) -> int:
        return sum(self.counts)

    @property
    def valid(self) -> Tensor:
        """(B, T) bool, False where padded."""
        counts = torch.tensor(self.counts).to(self.labels.device, non_blocking=True)
        return torch.arange(self.labels.shape[1], device=self.labels.device) < counts[:, None]

    def without_classes(self) -> "Targets":
        """The same boxes, all of class 0."""
        return Targets(torch.zeros_like(self.labels), self.boxes, self.counts)

    @staticmethod
    def collate(labels: list[Tensor], boxes: list[Tensor]) -> "Targets":
        """From one (n_i,) and one (n_i, 4) tensor per image."""
        return Targets(
            torch.nn.utils.rnn.pad_sequence([one.long() for one in labels], batch_first=True),
            torch.nn.utils.rnn.pad_sequence([in_full_precision(one) for one in boxes], batch_first=True),
            [len(one) for one in labels],
        )
