"""Datasets in FiftyOne's format on disk (``FiftyOneDataset``), written without FiftyOne and its database."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from deim.analysis import ImageResult, MatchResult, match_detections
from deim.analysis.detection_matching import CORRECT, IGNORED, OUTCOMES, iou_with_ground_truth
from deim.errors import ConfigError
from deim.reporting.fiftyone_shapes import box_mask, keypoint_values, skeleton_document
from deim.structures.skeleton import Skeleton

GROUND_TRUTH, PREDICTIONS = "ground_truth", "predictions"
# Suffix of the fields with the keypoints of the objects and detections.
_KEYPOINTS = "_keypoints"
# Version of FiftyOne's documents. Later versions of FiftyOne migrate datasets of this version.
_VERSION = "1.0.0"
# Names of the counts of a sample, as of FiftyOne's evaluation with the key "eval".
_COUNTS = ("eval_tp", "eval_fp", "eval_fn")


@dataclass(frozen=True)
class FiftyoneImage:
    """One image with its objects and, for the dataset of a run, its detections.

    Attributes:
        result: objects and detections; without detections, its arrays of detections are empty.
        size: (height, width) in pixels.
        tags: names by which the app filters images, such as that of the split.
        has_detections: whether a model has processed the image.
    """

    result: ImageResult
    size: tuple[int, int]
    tags: Sequence[str] = ()
    has_detections: bool = False


def write_fiftyone(
    folder: Path,
    name: str,
    images: Sequence[FiftyoneImage],
    class_names: Sequence[str],
    skeleton: Skeleton | None = None,
) -> None:
    """Write ``metadata.json`` and ``samples.json``, which refer to the images by absolute paths.

    Detections are matched as in :func:`deim.analysis.match_detections`. The attribute ``eval`` of an object or a detection
    is "tp", "fp" or "fn", as in FiftyOne's evaluation, and ``error`` of a detection is its type of error.

    Args:
        folder: the folder; existing files with these names are replaced.
        name: name of the dataset.
        images: the images.
        class_names: all classes.
        skeleton: names and connections of the keypoints; None without keypoints.

    Raises:
        ConfigError: if the folder is not writable.
    """
    has_detections = any(image.has_detections for image in images)
    keys = _sample_keys(images)
    samples = [_sample(key, image, class_names, has_detections) for key, image in zip(keys, images, strict=True)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "metadata.json", _metadata(name, class_names, has_detections, skeleton))
        _write(folder / "samples.json", {"samples": samples})
    except OSError as error:
        raise ConfigError(f"{folder} is not writable: {error.strerror or error}") from error


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _absolute_path(image: FiftyoneImage) -> str:
    return str(Path(image.result.file_name).absolute())


def _sample_keys(images: Sequence[FiftyoneImage]) -> list[str]:
    """Return the path of each image, with a number if an image before it has the same path, as in another split.

    The documents of a dataset need different identifiers.
    """
    counts: Counter[str] = Counter()
    keys = []
    for path in map(_absolute_path, images):
        counts[path] += 1
        keys.append(path if counts[path] == 1 else f"{path}\n{counts[path]}")
    return keys


def _sample(key: str, image: FiftyoneImage, class_names: Sequence[str], has_detections: bool) -> dict[str, Any]:
    """Return the document of an image; its identifiers and those of its labels depend on ``key``."""
    path = _absolute_path(image)
    height, width = image.size
    sample: dict[str, Any] = {
        "_id": _identifier(key),
        "filepath": path,
        "tags": list(image.tags),
        "metadata": {"_cls": "ImageMetadata", "width": width, "height": height},
        "_media_type": "image",
        "_rand": int(_identifier(key)["$oid"][:8], 16) / 2**32,
    }
    match = match_detections(image.result) if image.has_detections else None
    objects = _objects(key, image, class_names, match)
    sample[GROUND_TRUTH] = {"_cls": "Detections", "detections": objects}
    sample |= _keypoint_fields(key, image, class_names)
    if match is not None:
        detections = _detected(key, image, class_names, match)
        values = [label.get("eval") for label in detections]
        missed = sum(label.get("eval") == "fn" for label in objects)
        sample[PREDICTIONS] = {"_cls": "Detections", "detections": detections}
        sample |= {"eval_tp": values.count("tp"), "eval_fp": values.count("fp"), "eval_fn": missed}
    elif has_detections:
        sample |= {PREDICTIONS: None, **dict.fromkeys(_COUNTS)}
    return sample


def _objects(
    key: str, image: FiftyoneImage, class_names: Sequence[str], match: MatchResult | None
) -> list[dict[str, Any]]:
    """Return the labels of the ground truth, with their evaluation if there are detections."""
    result = image.result
    found = np.full(len(result.gt_boxes), -1)
    ious = np.zeros((0, len(result.gt_boxes)))
    if match is not None:
        correct = np.flatnonzero(match.gt_indices >= 0)
        found[match.gt_indices[correct]] = correct
        ious = iou_with_ground_truth(result)
    objects = []
    masks = result.gt_masks or [None] * len(result.gt_boxes)
    for index, (box, label) in enumerate(zip(result.gt_boxes, result.gt_classes, strict=True)):
        own = _mask(masks[index], box, image.size)
        own |= {} if match is None else {"eval": "fn" if found[index] < 0 else "tp"}
        if found[index] >= 0:
            identifier = _identifier(key, PREDICTIONS, found[index])["$oid"]
            own |= {"eval_id": identifier, "eval_iou": float(ious[found[index], index])}
        objects.append(_label(key, GROUND_TRUTH, index, box, class_names[label], image.size, **own))
    crowds = zip(result.crowd_boxes, result.crowd_classes, strict=True)
    return objects + [
        _label(key, "crowd", index, box, class_names[label], image.size, iscrowd=True)
        for index, (box, label) in enumerate(crowds)
    ]


def _detected(key: str, image: FiftyoneImage, class_names: Sequence[str], match: MatchResult) -> list[dict[str, Any]]:
    """Return the labels of the detections, with their evaluation."""
    result, ious = image.result, iou_with_ground_truth(image.result)
    labels = []
    masks: Sequence[Any] = [None] * len(result.boxes) if result.masks is None else result.masks
    for index, (box, label) in enumerate(zip(result.boxes, result.classes, strict=True)):
        outcome = _outcome(key, int(match.outcomes[index]), int(match.gt_indices[index]), ious[index])
        own = {"confidence": float(result.scores[index]), **outcome, **_mask(masks[index], box, image.size)}
        labels.append(_label(key, PREDICTIONS, index, box, class_names[label], image.size, **own))
    return labels


def _mask(mask: Any, box: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    """Return the attribute with the mask of a label, if it has one."""
    value = None if mask is None else box_mask(mask, box.tolist(), size)
    return {} if value is None else {"mask": value}


def _keypoint_fields(key: str, image: FiftyoneImage, class_names: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a sample with the keypoints of objects and detections, if there are any."""
    result, fields = image.result, {}
    for field, keypoints, classes in (
        (GROUND_TRUTH, result.gt_keypoints, result.gt_classes),
        (PREDICTIONS, result.keypoints, result.classes),
    ):
        if keypoints is not None:
            name, is_detected = f"{field}{_KEYPOINTS}", field == PREDICTIONS
            labels = [
                {
                    "_id": _identifier(key, name, index),
                    "_cls": "Keypoint",
                    "attributes": {},
                    "tags": [],
                    "label": class_names[label],
                    **keypoint_values(points, image.size, is_detected),
                }
                for index, (points, label) in enumerate(zip(keypoints, classes, strict=True))
            ]
            fields[name] = {"_cls": "Keypoints", "keypoints": labels}
    return fields


def _outcome(key: str, outcome: int, gt_index: int, ious: np.ndarray) -> dict[str, Any]:
    """Return the attributes with the evaluation of a detection; a detection on a crowd has none."""
    if outcome == CORRECT:
        identifier = _identifier(key, GROUND_TRUTH, gt_index)["$oid"]
        return {"eval": "tp", "eval_id": identifier, "eval_iou": float(ious[gt_index])}
    return {} if outcome == IGNORED else {"eval": "fp", "error": OUTCOMES[outcome]}


def _label(
    key: str, field: str, index: int, box: np.ndarray, label: str, size: tuple[int, int], **attributes: Any
) -> dict[str, Any]:
    """Return a label; boxes of FiftyOne have the upper left corner and the size relative to the image."""
    height, width = size
    left, top, right, bottom = (float(value) for value in box)
    return {
        "_id": _identifier(key, field, index),
        "_cls": "Detection",
        "attributes": {},
        "tags": [],
        "label": label,
        "bounding_box": [left / width, top / height, (right - left) / width, (bottom - top) / height],
        **attributes,
    }


def _identifier(*parts: Any) -> dict[str, str]:
    """Return an identifier of MongoDB that depends on the parts only."""
    return {"$oid": hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:24]}


def _metadata(name: str, class_names: Sequence[str], has_detections: bool, skeleton: Skeleton | None) -> dict[str, Any]:
    """Return the document of the dataset: its fields and classes."""
    fields = [
        _field("id", "ObjectIdField", db_field="_id"),
        _field("filepath", "StringField"),
        _list("tags", "StringField"),
        _embedded("metadata", "metadata.ImageMetadata", _METADATA_FIELDS),
        *(_field(field, kind) for field, kind in _HIDDEN_FIELDS.items()),
        _field("created_at", "DateTimeField", read_only=True),
        _field("last_modified_at", "DateTimeField", read_only=True),
        _detections(GROUND_TRUTH, "eval", "eval_id", iscrowd="BooleanField"),
    ]
    if has_detections:
        fields.append(_detections(PREDICTIONS, "eval", "eval_id", "error"))
        fields += [_field(count, "IntField") for count in _COUNTS]
    if skeleton is not None:
        names = (GROUND_TRUTH, PREDICTIONS) if has_detections else (GROUND_TRUTH,)
        fields += [_keypoints(f"{field}{_KEYPOINTS}") for field in names]
    created = {"$date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")}
    return {
        "_id": _identifier(name),
        "name": name,
        "slug": name,
        "version": _VERSION,
        "created_at": created,
        "last_loaded_at": created,
        "last_modified_at": created,
        "sample_collection_name": f"samples.{_identifier(name)['$oid']}",
        "persistent": False,
        "media_type": "image",
        "group_media_types": {},
        "tags": [],
        "info": {},
        "app_config": {},
        "classes": {},
        "default_classes": list(class_names),
        "mask_targets": {},
        "default_mask_targets": {},
        "skeletons": {},
        **({} if skeleton is None else {"default_skeleton": skeleton_document(skeleton)}),
        "sample_fields": fields,
        "frame_fields": [],
        "saved_views": [],
        "workspaces": [],
        "annotation_runs": {},
        "brain_methods": {},
        "evaluations": {},
        "runs": {},
    }


# Fields that every dataset has.
_METADATA_FIELDS = {
    "size_bytes": "IntField",
    "mime_type": "StringField",
    "width": "IntField",
    "height": "IntField",
    "num_channels": "IntField",
}
_HIDDEN_FIELDS = {"_media_type": "StringField", "_rand": "FloatField", "_dataset_id": "ObjectIdField"}


def _field(name: str, kind: str, **values: Any) -> dict[str, Any]:
    """Return the document of a field of a sample or a label."""
    return {
        "name": name,
        "ftype": f"fiftyone.core.fields.{kind}",
        "subfield": None,
        "embedded_doc_type": None,
        "db_field": name,
        "fields": [],
        "description": None,
        "info": None,
        "read_only": False,
    } | values


def _list(name: str, kind: str, **values: Any) -> dict[str, Any]:
    return _field(name, "ListField", subfield=f"fiftyone.core.fields.{kind}", **values)


def _embedded(name: str, document: str, fields: Mapping[str, str]) -> dict[str, Any]:
    inner = [_field(field, kind) for field, kind in fields.items()]
    return _field(name, "EmbeddedDocumentField", embedded_doc_type=f"fiftyone.core.{document}", fields=inner)


def _detections(name: str, *texts: str, **further: str) -> dict[str, Any]:
    """Return the document of a field with detections; ``texts`` and ``further`` are attributes of each detection."""
    own = [
        _list("bounding_box", "FloatField"),
        _field("mask", "ArrayField"),
        _field("confidence", "FloatField"),
        *(_field(text, "StringField") for text in texts),
        _field("eval_iou", "FloatField"),
        *(_field(attribute, kind) for attribute, kind in further.items()),
    ]
    return _labels(name, "Detection", own)


def _keypoints(name: str) -> dict[str, Any]:
    """Return the document of a field with keypoints."""
    return _labels(name, "Keypoint", [_field("points", "KeypointsField"), _list("confidence", "FloatField")])


def _labels(name: str, kind: str, own: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the document of a field with labels of a kind, such as "Detection", and their own fields."""
    shared = [
        _field("id", "ObjectIdField", db_field="_id"),
        _list("tags", "StringField"),
        _field("label", "StringField"),
    ]
    document = f"fiftyone.core.labels.{kind}"
    inner = _list(f"{kind.lower()}s", "EmbeddedDocumentField", embedded_doc_type=document, fields=[*shared, *own])
    return _field(name, "EmbeddedDocumentField", embedded_doc_type=f"{document}s", fields=[inner])
