"""What a decoder hands to the criterion."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Predictions:
    """One set of queries, stacked over decoder layers.

    Attributes:
        logits: (L, B, Q, K) class logits.
        boxes: (L, B, Q, 4) cxcywh, relative to the (padded) image.
        corners: (L, B, Q, 4, reg_max + 1) logits of the edge distributions, or None.
        references: (B, Q, 4) cxcywh boxes that the distributions refine, without gradient, or None.
        bin_values: (reg_max + 1,) values of the distributions' bins, or None.
        reg_scale: (1,) unit of the bin values: ``side / reg_scale``; or None.
    """

    logits: Tensor
    boxes: Tensor
    corners: Tensor | None = None
    references: Tensor | None = None
    bin_values: Tensor | None = None
    reg_scale: Tensor | None = None

    def split(self, sizes: list[int]) -> list["Predictions"]:
        """Cut along the queries."""
        count = len(sizes)
        logits, boxes = self.logits.split(sizes, dim=2), self.boxes.split(sizes, dim=2)
        corners = [None] * count if self.corners is None else self.corners.split(sizes, dim=2)
        references = [None] * count if self.references is None else self.references.split(sizes, dim=1)
        return [
            Predictions(*parts, self.bin_values, self.reg_scale)
            for parts in zip(logits, boxes, corners, references, strict=True)
        ]

    def float(self) -> "Predictions":
        """In float32, as losses are computed whatever the precision of the network."""
        return Predictions(*(None if t is None else t.float() for t in vars(self).values()))


@dataclass
class Targets:
    """Ground truth of a batch, padded to the largest number of objects T in it.

    Attributes:
        labels: (B, T) int64, 0 where padded.
        boxes: (B, T, 4) float32 cxcywh relative to the (padded) image, 0 where padded.
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
        counts = torch.tensor(self.counts, device=self.labels.device)
        return torch.arange(self.labels.shape[1], device=self.labels.device) < counts[:, None]

    @staticmethod
    def collate(labels: list[Tensor], boxes: list[Tensor]) -> "Targets":
        """From one (n_i,) and one (n_i, 4) tensor per image."""
        return Targets(
            torch.nn.utils.rnn.pad_sequence([one.long() for one in labels], batch_first=True),
            torch.nn.utils.rnn.pad_sequence([one.float() for one in boxes], batch_first=True),
            [len(one) for one in labels],
        )
