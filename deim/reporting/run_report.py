"""HTML report of a finished run."""

import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from pycocotools import mask as coco_masks
from torch import nn

from deim.analysis import (
    OUTCOMES,
    ImageResult,
    MatchResult,
    PrecisionRecallCurve,
    confusion_matrix,
    match_detections,
    precision_recall_curves,
)
from deim.analysis.curves import best_threshold
from deim.analysis.detection_matching import CORRECT, IGNORED
from deim.config import build, load_config
from deim.config.files import available
from deim.data.datasets.names import registered_name
from deim.data.image import read_image
from deim.data.records import annotation_arrays, annotation_boxes
from deim.engine.evaluation import (
    build_evaluator,
    check_classes,
    check_limits,
    dataset_keypoints,
    load_trained_model,
    required_classes,
)
from deim.engine.preflight import resolve_device
from deim.errors import ConfigError
from deim.structures.mask_encoding import encode_masks
from deim.structures.skeleton import Skeleton
from deim.visualization import draw_metrics
from deim.visualization.analysis import bars_figure, confusion_figure, precision_recall_figure
from deim.visualization.annotation import annotate
from deim.visualization.curves import COCO_SCORES
from deim.visualization.page import Page

# Default weights to evaluate; the first existing file is used.
_WEIGHTS = ("model_best.pth", "model_final.pth")
_GREEN, _RED, _WHITE = (40, 180, 70), (230, 40, 50), (255, 255, 255)
# Tasks of the evaluation beside the boxes: names of their metrics in COCO's results, and on the page.
_FURTHER_TASKS = {"segm": "masks", "keypoints": "keypoints"}
_SHOWN_IMAGES, _TIMED_IMAGES = 9, 20
# Longer side of the images on the page, in pixels.
_IMAGE_SIDE = 640


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
        scores: COCO metrics of the boxes in percent, including ``AP-<class>`` if there are several classes.
        results: ground truth and detections of each image.
        class_names: classes of the dataset.
        seconds: median inference time per image.
        parameters: number of parameters of the model.
        further_scores: COCO metrics of the masks and keypoints, as of the boxes: {task: {metric: value}}.
        skeleton: names and connections of the keypoints; None without keypoints.
    """

    scores: dict[str, float]
    results: Sequence[ImageResult]
    class_names: Sequence[str]
    seconds: float
    parameters: int
    further_scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    skeleton: Skeleton | None = None


def write_report(
    folder: str | Path, weights: str | None = None, overrides: Sequence[str] = (), config_file: str | None = None
) -> Path:
    """Evaluate the weights of a run and write ``report.html`` to its output directory.

    Args:
        folder: ``train.output_dir`` of the run.
        weights: checkpoint; default: the best or else the final one of the run.
        overrides: ``key=value`` overrides of the run's config.
        config_file: config to use instead of the run's ``config.yaml``, for example one that registers its datasets.

    Returns:
        path of the report.

    Raises:
        DeimError: if the directory holds no run, or files named in its config do not exist.
    """
    folder = Path(folder)
    file = folder / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"{folder} holds no run: config.yaml does not exist")
    cfg = load_config(config_file or str(file), overrides)  # also accepts runs of detrex's trainer
    checkpoints = [str(folder / name) for name in _WEIGHTS if (folder / name).is_file()]
    if weights is None and not checkpoints:
        raise ConfigError(f"{folder} has no weights yet: neither {' nor '.join(_WEIGHTS)} exists")
    cfg.train.init_checkpoint = weights or checkpoints[0]
    resolve_device(cfg)
    page = compose_page(cfg, evaluate_run(cfg), folder)
    page.write(folder / "report.html")
    return folder / "report.html"


@torch.no_grad()
def evaluate_run(cfg: Any) -> EvaluatedRun:
    """Evaluate ``train.init_checkpoint`` on ``dataloader.test``."""
    loader = build(cfg, "dataloader.test")
    check_classes(cfg, "test")
    check_limits(cfg, loader, "test")
    model, collector = load_trained_model(cfg).eval(), DetectionCollector()
    metrics = inference_on_dataset(model, loader, [collector, build_evaluator(cfg)])
    results = [
        _image_result(record, collector.detections[record["image_id"]])
        for record in build(cfg, "dataloader.test.dataset")
        if record["image_id"] in collector.detections
    ]
    names = required_classes(cfg, "test")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    keypoints = dataset_keypoints(cfg, "test")
    return EvaluatedRun(
        dict(metrics["bbox"]),
        results,
        names,
        _median_seconds(model, loader),
        parameters,
        {task: dict(metrics[task]) for task in _FURTHER_TASKS if task in metrics},
        None if keypoints is None else Skeleton.from_dict(keypoints),
    )


def _image_result(record: dict, detections: Mapping[str, Any]) -> ImageResult:
    crowds = [annotation for annotation in record.get("annotations", ()) if annotation.get("iscrowd", 0)]
    boxes, classes = annotation_arrays(record)
    crowd_classes = np.array([annotation["category_id"] for annotation in crowds], dtype=np.int64)
    return ImageResult(record["file_name"], boxes, classes, annotation_boxes(crowds), crowd_classes, **detections)


def _median_seconds(model: nn.Module, loader: Any) -> float:
    samples = itertools.islice(itertools.chain.from_iterable(loader), _TIMED_IMAGES)
    times = []
    for sample in samples:
        start = time.perf_counter()
        model([sample])[0]["instances"].scores.sum().item()  # synchronizes with the device
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def compose_page(cfg: Any, evaluated: EvaluatedRun, folder: Path) -> Page:
    """Compose the report page of a run."""
    matches = [match_detections(result) for result in evaluated.results]
    curves = precision_recall_curves(evaluated.results, matches, len(evaluated.class_names))
    threshold = best_threshold(curves)
    filtered = [result.filter_by_score(threshold) for result in evaluated.results]
    shown = [(result, match.top(len(result.scores))) for result, match in zip(filtered, matches, strict=True)]
    recipe = cfg.train.recipe
    page = Page(f"{recipe if recipe in available() else folder.name}: evaluation report")
    _add_summary(page, cfg, evaluated, threshold)
    if (folder / "metrics.json").is_file():
        page.heading("Training")
        draw_metrics(folder / "metrics.json", folder / "curves.png")
        page.image_file(folder / "curves.png", "Loss and AP over iterations")
    _add_classes(page, evaluated, curves)
    _add_errors(page, shown, evaluated.class_names, threshold)
    _add_images(page, shown, evaluated)
    page.heading("Configuration")
    page.collapsible("config.yaml", (folder / "config.yaml").read_text(encoding="utf-8"))
    return page


def _add_summary(page: Page, cfg: Any, evaluated: EvaluatedRun, threshold: float) -> None:
    scores = evaluated.scores
    page.note(
        f"Weights: {cfg.train.init_checkpoint}. "
        f"Dataset: {registered_name(cfg.dataloader.test.dataset)}, {len(evaluated.results)} images."
    )
    page.key_numbers(
        [
            (f"{scores['AP']:.1f}", "AP"),
            (f"{scores['AP50']:.1f}", "AP50"),
            *(
                (f"{values['AP']:.1f}", f"AP of {_FURTHER_TASKS[task]}")
                for task, values in evaluated.further_scores.items()
            ),
            (f"{threshold:.2f}", "best threshold (mean F1)"),
            (f"{evaluated.parameters / 1e6:.1f} M", "parameters"),
            (
                f"{1000 * evaluated.seconds:.1f} ms",
                f"per image on {cfg.train.device}, without conversion for deployment",
            ),
        ]
    )
    page.heading("COCO metrics")
    if not evaluated.further_scores:
        page.table(COCO_SCORES, [[_percent(scores[name]) for name in COCO_SCORES]])
    else:
        by_task = {"boxes": scores} | {
            _FURTHER_TASKS[task]: values for task, values in evaluated.further_scores.items()
        }
        # The AP of small objects is not defined for keypoints.
        rows = [
            [task, *(_percent(values.get(name, np.nan)) for name in COCO_SCORES)] for task, values in by_task.items()
        ]
        page.table(("task", *COCO_SCORES), rows)
    page.note("APs, APm, APl: AP of small (area < 32²), medium and large (area > 96²) objects; -: no such objects.")


def _add_classes(page: Page, evaluated: EvaluatedRun, curves: Sequence[PrecisionRecallCurve]) -> None:
    page.heading("Classes")
    rows = []
    # detectron2 reports no AP per class for a single class.
    single_ap = evaluated.scores["AP"] if len(evaluated.class_names) == 1 else np.nan
    for name, curve in zip(evaluated.class_names, curves, strict=True):
        best = curve.best_index
        at_best = ["-"] * 4
        if best is not None:
            values = (curve.scores[best], curve.f1[best], curve.precision[best], curve.recall[best])
            at_best = [f"{value:.2f}" for value in values]
        rows.append([name, str(curve.num_objects), _percent(evaluated.scores.get(f"AP-{name}", single_ap)), *at_best])
    page.table(("class", "objects", "AP", "best threshold", "F1", "precision", "recall"), rows)
    page.note("Best threshold: score with the highest F1. F1, precision and recall hold at this score and IoU 0.5.")
    page.plot(precision_recall_figure(curves, evaluated.class_names), "Precision-recall curves")


def _add_errors(
    page: Page, shown: Sequence[tuple[ImageResult, MatchResult]], class_names: Sequence[str], threshold: float
) -> None:
    page.heading("Errors")
    results = [result for result, _ in shown]
    outcomes = np.concatenate([match.outcomes for _, match in shown])
    counts = {name: int((outcomes == number).sum()) for number, name in enumerate(OUTCOMES) if number != IGNORED}
    counts["missed objects"] = sum(len(result.gt_classes) for result in results) - counts["correct"]
    page.plot(bars_figure(counts, f"Detections with a score of at least {threshold:.2f}", "count"), "Error types")
    page.note(
        "duplicate: the object has a better detection; class: overlaps an object of another class; localization: "
        "overlaps an object of its class too little (IoU 0.1 to 0.5); background: none of these."
    )
    page.plot(confusion_figure(confusion_matrix(results, len(class_names)), class_names), "Confusion matrix")


def _add_images(page: Page, shown: Sequence[tuple[ImageResult, MatchResult]], evaluated: EvaluatedRun) -> None:
    class_names, skeleton = evaluated.class_names, evaluated.skeleton
    connections = () if skeleton is None else skeleton.connections
    num_errors = [_num_errors(*pair) for pair in shown]
    worst = np.argsort([-count for count in num_errors], kind="stable")[:_SHOWN_IMAGES]
    page.heading("Images with the most errors")
    page.note("Green: correct detection. Red: wrong detection. White: missed object.")
    page.images([_annotated_image(shown[index], class_names, connections) for index in worst])
    page.heading("Samples")
    indices = np.linspace(0, len(shown) - 1, min(_SHOWN_IMAGES, len(shown))).astype(int)
    page.images([_annotated_image(shown[index], class_names, connections) for index in indices])


def _num_errors(result: ImageResult, match: MatchResult) -> int:
    """Count wrong detections and missed objects."""
    correct = int((match.outcomes == CORRECT).sum())
    return int((match.outcomes != IGNORED).sum()) - correct + len(result.gt_classes) - correct


def _annotated_image(
    pair: tuple[ImageResult, MatchResult], names: Sequence[str], connections: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, str]:
    result, match = pair
    image = read_image(result.file_name)
    scale = _IMAGE_SIDE / max(image.shape[:2])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    missed = np.setdiff1d(np.arange(len(result.gt_classes)), match.gt_indices)
    boxes = np.concatenate([result.gt_boxes[missed], result.boxes])
    labels = [names[index] for index in result.gt_classes[missed]]
    colors = [_WHITE] * len(missed)
    for outcome, score, index in zip(match.outcomes, result.scores, result.classes, strict=True):
        labels.append(f"{names[index]} {score:.2f}" + ("" if outcome == CORRECT else f" ({OUTCOMES[outcome]})"))
        colors.append(_GREEN if outcome == CORRECT else _RED)
    # The ground truth is shown by boxes only.
    masks: list[np.ndarray | None] | None = None
    if result.masks is not None:
        decoded = (coco_masks.decode(mask) for mask in result.masks)
        resized = [cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST) > 0 for mask in decoded]
        masks = [None] * len(missed) + resized
    keypoints: list[np.ndarray | None] | None = None
    if result.keypoints is not None:
        keypoints = [None] * len(missed) + list(result.keypoints * (scale, scale, 1))
    annotated = annotate(image, boxes * scale, labels, colors, masks, keypoints, connections)
    return annotated, f"{Path(result.file_name).name}: {_num_errors(result, match)} errors"


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.1f}"
