"""Query denoising (DN-DETR, arXiv 2203.01305, section 4; contrastive: DINO, arXiv 2203.03605, section 3.3)."""

from dataclasses import dataclass

import torch
from detrex.layers import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from torch import Tensor, nn

from deim.structures.boxes import inverse_sigmoid
from deim.structures.predictions import Targets


@dataclass(kw_only=True)
class DenoisingGroups:
    """Order of the denoising queries: ``num_groups`` groups of equal size.

    The first T queries of a group are positives made from the T (padded) targets; the remaining ones, if any, are
    negatives.

    Attributes:
        num_groups: number of groups; each target has one positive in each group.
        group_size: number of queries of each group.
        classification_mask: (B, N) bool, queries with a classification loss. None for all queries, with padded targets
            as negatives.
    """

    num_groups: int
    group_size: int
    classification_mask: Tensor | None = None

    def __len__(self) -> int:
        return self.num_groups * self.group_size

    def cross_group_mask(self, device: torch.device) -> Tensor:
        """Return (N, N) bool, True for pairs of queries from different groups."""
        group = torch.arange(len(self), device=device) // max(self.group_size, 1)
        return group[:, None] != group[None, :]


@dataclass(kw_only=True)
class DenoisingQueries(DenoisingGroups):
    """Queries made from noised ground truth.

    Attributes:
        content: (B, N, C) label embeddings, zero for padded targets; with keypoints (B, N, 1 + P, C).
        references: (B, N, 4) box logits; with keypoints (B, N, 1 + P, 2) point logits.
    """

    content: Tensor
    references: Tensor


class Denoising(nn.Module):
    """Base class of sources of :class:`DenoisingQueries`."""

    # True if queries are poses; see deim.modeling.decoder.pose.
    for_keypoints = False

    def forward(self, targets: Targets) -> DenoisingQueries:
        """Create the denoising queries of a batch.

        Args:
            targets: ground truth. Without objects the result has 0 queries, but is still connected to the embedding, so
                that all ranks of a distributed run have the same graph.
        """
        raise NotImplementedError


class ContrastiveDenoising(Denoising):
    """Contrastive denoising: positives to be recognized, and negatives with more noise to be rejected.

    Args:
        dim: width of the queries.
        num_classes: K.
        num_queries: approximate number of positives per image, over all groups.
        label_noise_ratio: twice the probability that a label, of a positive or a negative, is replaced by a random one.
        box_noise_scale: edges of positives move by up to 0.5 times this value times the side; edges of negatives by
            between 0.5 and 1 times.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        num_queries: int = 100,
        label_noise_ratio: float = 0.5,
        box_noise_scale: float = 1.0,
    ):
        super().__init__()
        self.num_classes, self.num_queries = num_classes, num_queries
        self.label_noise_ratio, self.box_noise_scale = label_noise_ratio, box_noise_scale
        self.class_embedding = nn.Embedding(num_classes + 1, dim, padding_idx=num_classes)

    def forward(self, targets: Targets) -> DenoisingQueries:
        max_objects = targets.labels.shape[1]
        groups = max(self.num_queries // max_objects, 1) if max_objects else 0
        labels = targets.labels.masked_fill(~targets.valid, self.num_classes).repeat(1, 2 * groups)
        boxes = targets.boxes.repeat(1, 2 * groups, 1)
        padded = labels == self.num_classes
        index_in_group = torch.arange(labels.shape[1], device=labels.device) % max(2 * max_objects, 1)
        negative = (index_in_group >= max_objects)[None, :, None]
        return DenoisingQueries(
            content=self.class_embedding(self._noise_labels(labels, padded)),
            references=inverse_sigmoid(self._noise_boxes(boxes, negative)),
            num_groups=groups,
            group_size=2 * max_objects,
        )

    def _noise_labels(self, labels: Tensor, padded: Tensor) -> Tensor:
        return replace_labels(labels, ~padded, self.num_classes, self.label_noise_ratio * 0.5)

    def _noise_boxes(self, boxes: Tensor, negative: Tensor) -> Tensor:
        """Move each edge inward or outward at random; swap edges that end up in reversed order."""
        if self.box_noise_scale <= 0:
            return boxes
        sign = torch.randint_like(boxes, 2) * 2 - 1
        amount = torch.rand_like(boxes) + negative
        half_size = boxes[..., 2:].repeat(1, 1, 2) / 2
        noised = box_cxcywh_to_xyxy(boxes) + sign * amount * half_size * self.box_noise_scale
        return box_xyxy_to_cxcywh(noised.clamp(0, 1)).abs()


class QueryDenoising(Denoising):
    """Denoising of DN-DETR: only positives, in a fixed number of groups.

    The last channel of the content marks the denoising queries (section 4.3, "indicator").

    Args:
        dim: width of the queries.
        num_classes: K.
        num_groups: number of noised copies of each target.
        label_noise_ratio: probability that a label is replaced by a random one.
        box_noise_scale: centers move by up to 0.5 times this value times the side; sides change by up to this value
            times the side.
        logit_eps: minimum distance of coordinates to 0 and 1 before the conversion to logits.
        spare_labels: number of unused rows of the embedding; the official DN-DAB-Deformable-DETR has one.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        num_groups: int = 5,
        label_noise_ratio: float = 0.2,
        box_noise_scale: float = 0.4,
        logit_eps: float = 1e-3,
        spare_labels: int = 0,
    ):
        super().__init__()
        self.num_classes, self.num_groups = num_classes, num_groups
        self.label_noise_ratio, self.box_noise_scale = label_noise_ratio, box_noise_scale
        self.logit_eps = logit_eps
        self.class_embedding = nn.Embedding(num_classes + spare_labels, dim - 1)

    def forward(self, targets: Targets) -> DenoisingQueries:
        size, groups = targets.labels.shape[1], self.num_groups
        labels, boxes = targets.labels.repeat(1, groups), targets.boxes.repeat(1, groups, 1)
        valid = targets.valid.repeat(1, groups)
        content = self.class_embedding(replace_labels(labels, valid, self.num_classes, self.label_noise_ratio))
        content = torch.cat([content, torch.ones_like(content[..., :1])], dim=-1)
        references = inverse_sigmoid(self._noise_boxes(boxes), self.logit_eps)
        return DenoisingQueries(
            content=content * valid[..., None],
            references=references * valid[..., None],
            num_groups=groups,
            group_size=size,
            classification_mask=valid,
        )

    def _noise_boxes(self, boxes: Tensor) -> Tensor:
        max_shift = torch.cat([boxes[..., 2:] / 2, boxes[..., 2:]], dim=-1) * self.box_noise_scale
        return boxes + (torch.rand_like(boxes) * 2 - 1) * max_shift


def replace_labels(labels: Tensor, valid: Tensor, num_classes: int, ratio: float) -> Tensor:
    """Replace valid labels by random labels with probability ``ratio``."""
    if ratio <= 0:
        return labels
    replaced = torch.rand(labels.shape, device=labels.device) < ratio
    return torch.where(replaced & valid, torch.randint_like(labels, num_classes), labels)
