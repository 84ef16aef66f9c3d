"""Evaluation of a run's weights, with ground truth and detections of every test image."""

import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from omegaconf import OmegaConf
from torch import nn

from deim.analysis import ImageResult
from deim.config import build
from deim.data.areas import annotation_areas
from deim.data.datasets.keypoints import KeypointDefinition, keypoints_from_metadata
from deim.data.datasets.names import registered_name
from deim.data.drawing import object_shapes
from deim.data.records import annotation_arrays, annotation_boxes, record_size
from deim.engine.evaluation import (
    build_evaluator,
    check_classes,
    check_limits,
    dataset_keypoints,
    deferred_masks,
    load_trained_model,
    required_classes,
)
from deim.errors import ConfigError
from deim.structures.mask_encoding import encode_masks
from deim.structures.skeleton import Skeleton
from deim.tasks import TASKS

_TIMED_IMAGES = 20


class DetectionCollector(DatasetEvaluator):
    """Evaluator that stores all detections: {image id: fields of :class:`ImageResult`}."""

    def __init__(self) -> None:
        self.detections: dict[Any, dict[str, Any]] = {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for sample, result in zip(inputs, outputs, strict=True):
            instances = result["instances"].to("cpu")
            has_keypoints = instances.has("pred_keypoints")
            self.detections[sample["image_id"]] = {
                "boxes": instances.pred_boxes.tensor.numpy(),
                "scores": instances.scores.numpy(),
                "classes": instances.pred_classes.numpy(),
                "masks": encode_masks(instances.pred_masks) if instances.has("pred_masks") else None,
                # detectron2's evaluator changes the keypoints in place.
                "keypoints": instances.pred_keypoints.clone().numpy() if has_keypoints else None,
            }

    def evaluate(self) -> dict:
        return {}


@dataclass(frozen=True)
class EvaluatedRun:
    """Results of a run's weights on its test images.

    Attributes:
        scores: COCO metrics of ``task`` in percent, including ``AP-<class>`` if there are several classes.
        results: ground truth and detections of each image.
        class_names: classes of the dataset.
        seconds: median inference time per image.
        parameters: number of parameters of the model.
        further_scores: COCO metrics of the further tasks: {task: {metric: value}}.
        skeleton: names and connections of the keypoints; None without keypoints.
        task: key of :data:`deim.tasks.TASKS`: "bbox", unless boxes were not evaluated.
    """

    scores: dict[str, float]
    results: Sequence[ImageResult]
    class_names: Sequence[str]
    seconds: float
    parameters: int
    further_scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    skeleton: Skeleton | None = None
    task: str = "bbox"


@torch.no_grad()
def evaluate_run(cfg: Any) -> EvaluatedRun:
    """Evaluate ``train.init_checkpoint`` on ``dataloader.test``.

    If only keypoints are evaluated, detections and objects are matched by the similarity of their keypoints.

    Raises:
        ConfigError: if the evaluator evaluates neither boxes nor masks nor keypoints.
    """
    loader = build(cfg, "dataloader.test")
    check_classes(cfg, "test")
    check_limits(cfg, loader, "test")
    model, collector = load_trained_model(cfg).eval(), DetectionCollector()
    evaluator = build_evaluator(cfg)
    with deferred_masks(model, evaluator):
        metrics = inference_on_dataset(model, loader, [collector, evaluator])
    tasks = [task for task in TASKS if task in metrics]
    if not tasks:
        raise ConfigError(f"dataloader.evaluator evaluates none of {', '.join(TASKS)}, which a report shows")
    records = build(cfg, "dataloader.test.dataset")
    name = registered_name(cfg.dataloader.test.dataset)
    definition = None if name is None else keypoints_from_metadata(MetadataCatalog.get(name))
    sigmas = OmegaConf.select(cfg, "dataloader.evaluator.kpt_oks_sigmas", default=None)
    results = [
        _image_result(
            record,
            collector.detections[record["image_id"]],
            definition,
            list(sigmas) if sigmas and tasks == ["keypoints"] else None,
        )
        for record in records
        if record["image_id"] in collector.detections
    ]
    names = required_classes(cfg, "test")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    keypoints = dataset_keypoints(cfg, "test")
    return EvaluatedRun(
        dict(metrics[tasks[0]]),
        results,
        names,
        _median_seconds(model, loader),
        parameters,
        {task: dict(metrics[task]) for task in tasks[1:]},
        None if keypoints is None else Skeleton.from_dict(keypoints),
        tasks[0],
    )


def _image_result(
    record: dict,
    detections: Mapping[str, Any],
    definition: KeypointDefinition | None,
    oks_sigmas: Sequence[float] | None,
) -> ImageResult:
    """Return ground truth and detections of an image.

    Args:
        record: a detectron2 record.
        detections: fields of the detections.
        definition: keypoints of the dataset; None if it has none.
        oks_sigmas: constants of the keypoints, if objects and detections are matched by keypoints. As in COCO's
            evaluation, detections on objects without labeled keypoints are then not errors.
    """
    crowds = [annotation for annotation in record.get("annotations", ()) if annotation.get("iscrowd", 0)]
    crowd_boxes = annotation_boxes(crowds)
    crowd_classes = np.array([annotation["category_id"] for annotation in crowds], dtype=np.int64)
    boxes, classes = annotation_arrays(record)
    masks, keypoints = object_shapes(record, definition)
    areas = annotation_areas(record)
    if oks_sigmas is not None and keypoints is not None:
        is_labeled = np.any(keypoints[..., 2] > 0, axis=1)
        crowd_boxes = np.concatenate([crowd_boxes, boxes[~is_labeled]])
        crowd_classes = np.concatenate([crowd_classes, classes[~is_labeled]])
        boxes, classes, keypoints, areas = (x[is_labeled] for x in (boxes, classes, keypoints, areas))
        masks = [mask for mask, is_kept in zip(masks, is_labeled.tolist(), strict=True) if is_kept]
    return ImageResult(
        record["file_name"],
        boxes,
        classes,
        crowd_boxes,
        crowd_classes,
        **detections,
        gt_masks=masks if detections["masks"] is not None else None,
        gt_keypoints=keypoints if detections["keypoints"] is not None else None,
        gt_areas=areas,
        oks_sigmas=oks_sigmas,
        size=record_size(record),
    )


def _median_seconds(model: nn.Module, loader: Any) -> float:
    samples = itertools.islice(itertools.chain.from_iterable(loader), _TIMED_IMAGES)
    times = []
    for sample in samples:
        start = time.perf_counter()
        model([sample])[0]["instances"].scores.sum().item()  # synchronizes with the device
        times.append(time.perf_counter() - start)
    return statistics.median(times)
