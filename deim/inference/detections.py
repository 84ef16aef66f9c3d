"""Detections in one image, as returned by a predictor."""

import inspect
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from PIL import Image
from torch import Tensor

from deim.checkpoint.class_lists import CLASSES_BY_COUNT, COCO
from deim.errors import ConfigError
from deim.structures.mask_encoding import encode_masks
from deim.structures.skeleton import Skeleton
from deim.visualization.annotation import annotate, class_color


class Detections(Instances):
    """detectron2's ``Instances`` together with the image and the class names.

    Fields, best detection first, on the CPU unless :meth:`to` moves them: ``pred_boxes`` (XYXY in pixels of the image),
    ``scores`` in [0, 1] and ``pred_classes`` (int64); if the model predicts them, also ``pred_masks`` and
    ``pred_keypoints``; if objects are tracked, ``pred_track_ids`` (int64). Indexing, masking and :meth:`to` return
    ``Detections`` as well.
    """

    @classmethod
    def from_instances(
        cls,
        instances: Instances,
        class_names: Sequence[str],
        image: np.ndarray,
        file_name: str | None = None,
        skeleton: Skeleton | None = None,
    ) -> "Detections":
        """Create detections from a model's predictions.

        Args:
            instances: predictions for the image.
            class_names: all classes of the model.
            image: uint8 (H, W, 3) RGB; kept by reference.
            file_name: path of the image.
            skeleton: names and connections of the keypoints; default: see :meth:`Skeleton.for_count`.
        """
        detections = cls(instances.image_size, **instances.get_fields())
        if skeleton is None and instances.has("pred_keypoints"):
            skeleton = Skeleton.for_count(instances.pred_keypoints.shape[1])
        detections._skeleton = skeleton
        detections._class_names, detections._image, detections._file_name = list(class_names), image, file_name
        return detections

    @property
    def class_names(self) -> list[str]:
        """Names of all classes of the model, in the order of ``pred_classes``."""
        return self._class_names

    @property
    def image(self) -> np.ndarray:
        """The image, uint8 (H, W, 3) RGB."""
        return self._image

    @property
    def file_name(self) -> str | None:
        """Path of the image; None for an image in memory."""
        return self._file_name

    @property
    def labels(self) -> list[str]:
        """Class name of each detection."""
        return [self._class_names[index] for index in self.pred_classes.tolist()]

    @property
    def boxes(self) -> Tensor:
        """Boxes (N, 4), XYXY in pixels."""
        return self.pred_boxes.tensor

    @property
    def masks(self) -> Tensor | None:
        """Masks (N, H, W), bool, at the size of the image; None if the model predicts no masks."""
        return self.pred_masks if self.has("pred_masks") else None

    @property
    def keypoints(self) -> Tensor | None:
        """Keypoints (N, P, 3), x and y in pixels and the score of the detection; None if the model predicts none."""
        return self.pred_keypoints if self.has("pred_keypoints") else None

    @property
    def track_ids(self) -> Tensor | None:
        """Identity (N,) of each object, int64, the same in all frames of a video; None if objects are not tracked."""
        return self.pred_track_ids if self.has("pred_track_ids") else None

    @property
    def skeleton(self) -> Skeleton | None:
        """Names and connections of the keypoints; None if the model predicts no keypoints."""
        return self._skeleton

    def __getitem__(self, item: Any) -> "Detections":
        return self._with_image(super().__getitem__(item))

    def to(self, *args: Any, **kwargs: Any) -> "Detections":
        return self._with_image(super().to(*args, **kwargs))

    def _with_image(self, instances: Instances) -> "Detections":
        return self.from_instances(instances, self._class_names, self._image, self._file_name, self._skeleton)

    def filter_classes(self, names: Sequence[str]) -> "Detections":
        """Return the detections of the given classes.

        Raises:
            ConfigError: if the model does not have one of the classes.
        """
        indices = self.pred_classes.new_tensor(class_indices(names, self._class_names), dtype=torch.int64)
        return self[torch.isin(self.pred_classes, indices)]

    def of_classes(self, names: Sequence[str]) -> "Detections":
        """Return the detections of the given classes. Deprecated: use :meth:`filter_classes`."""
        warnings.warn("Detections.of_classes is deprecated: use filter_classes", DeprecationWarning, stacklevel=2)
        return self.filter_classes(names)

    def to_coco(self, image_id: int | str | None = None, category_ids: Sequence[int] | None = None) -> list[dict]:
        """Return the detections in COCO's results format: XYWH boxes, run-length encoded masks, keypoints, identities.

        COCO's keypoints are pixel indices, so that they are 0.5 less than :attr:`keypoints`.

        Args:
            image_id: default: name of the image file without directory and suffix, or 0 for an image in memory.
            category_ids: id of each class; default: COCO's own ids for its 80 classes, else numbers from 1.
        """
        if image_id is None:
            image_id = Path(self._file_name).stem if self._file_name else 0
        ids = category_ids or default_category_ids(self._class_names)
        sizes = self.boxes[:, 2:] - self.boxes[:, :2]
        rows = zip(
            torch.cat([self.boxes[:, :2], sizes], dim=1).tolist(),
            self.scores.tolist(),
            self.pred_classes.tolist(),
            strict=True,
        )
        results = [{"image_id": image_id, "category_id": ids[c], "bbox": box, "score": score} for box, score, c in rows]
        if self.masks is not None:
            for result, segmentation in zip(results, encode_masks(self.masks), strict=True):
                result["segmentation"] = segmentation
        if self.keypoints is not None:
            indices = self.keypoints - self.keypoints.new_tensor([0.5, 0.5, 0])
            for result, values in zip(results, indices.flatten(1).tolist(), strict=True):
                result["keypoints"] = values
        if self.track_ids is not None:
            for result, identity in zip(results, self.track_ids.tolist(), strict=True):
                result["track_id"] = identity
        return results

    def to_supervision(self) -> Any:
        """Return boxes, masks and identities as ``supervision.Detections``.

        Raises:
            ConfigError: if the package supervision is not installed.
        """
        return _import_supervision().Detections(
            xyxy=self.boxes.cpu().numpy(),
            mask=None if self.masks is None else self.masks.cpu().numpy(),
            confidence=self.scores.cpu().numpy(),
            class_id=self.pred_classes.cpu().numpy(),
            tracker_id=None if self.track_ids is None else self.track_ids.cpu().numpy(),
            data={"class_name": np.array(self.labels, dtype=str)},
        )

    def to_supervision_keypoints(self) -> Any:
        """Return the keypoints as ``supervision.KeyPoints``.

        ``supervision.EdgeAnnotator`` counts keypoints from 1, and :attr:`skeleton` from 0.

        Raises:
            ConfigError: if the model predicts no keypoints, or the package supervision is not installed.
        """
        if self.keypoints is None:
            raise ConfigError("the model predicts no keypoints")
        keypoint_class = _import_supervision().KeyPoints
        keypoints, names = self.keypoints.cpu().numpy(), np.array(self.labels, dtype=str)
        # The name of the third parameter, and whether there is one for scores of detections, depend on the version.
        further = {"detection_confidence": self.scores.cpu().numpy()}
        accepted = inspect.signature(keypoint_class).parameters
        return keypoint_class(
            keypoints[..., :2],
            self.pred_classes.cpu().numpy(),
            keypoints[..., 2],
            data={"class_name": names},
            **{name: value for name, value in further.items() if name in accepted},
        )

    def draw(self) -> Image.Image:
        """Return the image with boxes, class names and scores, and translucent masks and skeletons if there are any.

        The color is that of the class, or of the identity if objects are tracked.
        """
        order = list(range(len(self)))[::-1]  # the best on top
        scores, labels = self.scores.tolist(), self.labels
        colors = self.pred_classes if self.track_ids is None else self.track_ids
        if self.track_ids is not None:
            labels = [f"#{i} {label}" for i, label in zip(self.track_ids.tolist(), labels, strict=True)]
        annotated = annotate(
            self._image,
            self.boxes.cpu().numpy()[order],
            [f"{labels[i]} {scores[i]:.2f}" for i in order],
            [class_color(int(colors[i])) for i in order],
            None if self.masks is None else list(self.masks.cpu().numpy()[order]),
            None if self.keypoints is None else list(self.keypoints.cpu().numpy()[order]),
            () if self.skeleton is None else self.skeleton.connections,
        )
        return Image.fromarray(annotated)

    def __repr__(self) -> str:
        height, width = self.image_size
        source = f" in {self._file_name}" if self._file_name else ""
        listing = ", ".join(
            f"{name} {score:.2f}" for name, score in zip(self.labels, self.scores.tolist(), strict=True)
        )
        return f"Detections({len(self)}{source}, {width} x {height}: {listing or 'nothing'})"

    __str__ = __repr__


def _import_supervision() -> Any:
    try:
        import supervision
    except ImportError as error:
        raise ConfigError("conversion requires the package supervision: pip install supervision") from error
    return supervision


def class_indices(names: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """Return the index of each name.

    Raises:
        ConfigError: if the model does not have one of the classes.
    """
    unknown = [name for name in names if name not in class_names]
    if unknown:
        raise ConfigError(f"the model has no class {', '.join(unknown)}; it has {', '.join(class_names)}")
    return [class_names.index(name) for name in names]


def default_category_ids(class_names: Sequence[str]) -> list[int]:
    """Return COCO's own ids for COCO's 80 classes, else numbers from 1.

    Official code of several DETRs has a score for each category id, of which 0 is unused.
    """
    if tuple(class_names) == COCO:
        # COCO's ids are 1 to 90 with gaps. Names of unused ids are empty in the list of 91 names.
        return [number for number, name in enumerate(CLASSES_BY_COUNT[91]) if name]
    is_placeholder = [re.fullmatch(r"class \d+", name) is not None for name in class_names]
    is_by_id = is_placeholder[:1] == [True] and not all(is_placeholder)
    return list(range(1 - is_by_id, len(class_names) + 1 - is_by_id))
