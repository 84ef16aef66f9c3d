"""Weighted box fusion (Solovyev et al. 2019): one set of detections from those of several models or views of an image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from deim.errors import ConfigError


@dataclass(frozen=True)
class BoxFusion:
    """Settings of weighted box fusion.

    Boxes of a class that overlap are fused: the fused box is their mean, weighted by the scores; the fused score is the
    sum of their scores, divided by the number of sources. Each source has at most one box in a fused one, since the
    models of this package detect each object once.

    Attributes:
        iou_threshold: minimum IoU of a box and a fused box to be fused.
        is_exclusive: whether a source has at most one box in a fused one; False is the published algorithm.
    """

    iou_threshold: float = 0.55
    is_exclusive: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.iou_threshold < 1:
            raise ConfigError(f"iou_threshold={self.iou_threshold} must be between 0 and 1")

    def fuse(self, parts: Sequence[Instances], max_detections: int | None = None) -> Instances:
        """Return the fused detections of an image, best first.

        Args:
            parts: detections of each source at the size of the image, on the CPU. Masks and keypoints are those of the
                best detection of each fused one.
            max_detections: number of fused detections to keep; None for all.
        """
        boxes = np.concatenate([part.pred_boxes.tensor.numpy() for part in parts]).astype(np.float64)
        scores = np.concatenate([part.scores.numpy() for part in parts]).astype(np.float64)
        classes = np.concatenate([part.pred_classes.numpy() for part in parts])
        sources = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        fused_boxes, fused_scores, best = self.fuse_boxes(boxes, scores, classes, sources, len(parts))
        kept = slice(max_detections)
        fused_boxes, fused_scores, best = fused_boxes[kept], fused_scores[kept], best[kept]
        result = Instances(
            parts[0].image_size,
            pred_boxes=Boxes(torch.from_numpy(fused_boxes.astype(np.float32))),
            scores=torch.from_numpy(fused_scores.astype(np.float32)),
            pred_classes=torch.from_numpy(classes[best]),
        )
        first = np.cumsum([0, *(len(part) for part in parts)])
        for name in ("pred_masks", "pred_keypoints"):
            if all(part.has(name) for part in parts):
                values = [parts[sources[i]].get(name)[i - first[sources[i]]] for i in best]
                # A copy, because tensors from torch's inference mode cannot be changed in place.
                result.set(name, torch.stack(values) if values else parts[0].get(name)[:0].clone())
        if result.has("pred_keypoints"):
            result.pred_keypoints[..., 2] = result.scores[:, None]
        return result

    def fuse_boxes(
        self, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, sources: np.ndarray, num_sources: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Fuse the boxes of one image.

        Args:
            boxes: (N, 4) XYXY.
            scores: (N,).
            classes: (N,); only boxes of the same class are fused.
            sources: (N,) number of the model or view of each box.
            num_sources: number of models and views.

        Returns:
            fused boxes (F, 4) XYXY, their scores (F,), best first, and the index (F,) of the best box of each.
        """
        order = np.argsort(-scores, kind="stable")
        results = [
            self._fuse_class(boxes[indices], scores[indices], sources[indices], num_sources, indices)
            for label in np.unique(classes)
            if len(indices := order[classes[order] == label])
        ]
        if not results:
            return np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)
        fused_boxes, fused_scores, best = (np.concatenate(values) for values in zip(*results, strict=True))
        order = np.argsort(-fused_scores, kind="stable")
        return fused_boxes[order], fused_scores[order], best[order]

    def _fuse_class(
        self, boxes: np.ndarray, scores: np.ndarray, sources: np.ndarray, num_sources: int, indices: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Fuse boxes of one class, best first; return ``indices`` of the best boxes."""
        count = 0  # number of fused boxes
        fused, sums, sizes = np.zeros_like(boxes), np.zeros(len(boxes)), np.zeros(len(boxes), int)
        has_source = np.zeros((len(boxes), num_sources), bool)
        best = np.zeros(len(boxes), int)
        for number, (box, score, source) in enumerate(zip(boxes, scores, sources, strict=True)):
            overlaps = _iou(box, fused[:count])
            if self.is_exclusive:
                overlaps[has_source[:count, source]] = 0
            target = int(overlaps.argmax()) if count else 0
            if not count or overlaps[target] <= self.iou_threshold:
                target, best[count], count = count, number, count + 1
            total = sums[target] + score
            if total > 0:
                fused[target] = (fused[target] * sums[target] + box * score) / total
            else:
                fused[target] = box
            sums[target], has_source[target, source] = total, True
            sizes[target] += 1
        scores_of_fused = sums[:count] / sizes[:count] * np.minimum(sizes[:count], num_sources) / num_sources
        return fused[:count], scores_of_fused, indices[best[:count]]


def _iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the IoU (N,) of a box (4,) and others (N, 4), XYXY."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    intersections = sides.clip(min=0).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    return intersections / np.maximum((box[2:] - box[:2]).prod() + areas - intersections, 1e-9)
