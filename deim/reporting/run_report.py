"""HTML report of a finished run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from deim.analysis import (
    OUTCOMES,
    ImageResult,
    MatchResult,
    PrecisionRecallCurve,
    confusion_matrix,
    keypoint_errors,
    match_detections,
    precision_recall_curves,
)
from deim.analysis.curves import best_threshold
from deim.analysis.detection_matching import CORRECT, IGNORED
from deim.analysis.keypoint_errors import FOUND_DISTANCE
from deim.config import load_config
from deim.config.files import available
from deim.data.datasets.names import registered_name
from deim.data.drawing import decode_mask
from deim.data.image import read_image
from deim.engine.preflight import resolve_device
from deim.errors import ConfigError
from deim.reporting.evaluated_run import EvaluatedRun, evaluate_run
from deim.tasks import TASKS
from deim.visualization import draw_metrics
from deim.visualization.analysis import bars_figure, confusion_figure, precision_recall_figure
from deim.visualization.annotation import annotate
from deim.visualization.curves import COCO_SCORES
from deim.visualization.page import Page

# Default weights to evaluate; the first existing file is used.
_WEIGHTS = ("model_best.pth", "model_final.pth")
_GREEN, _RED, _WHITE = (40, 180, 70), (230, 40, 50), (255, 255, 255)
_SHOWN_IMAGES = 9
# Longer side of the images on the page, in pixels.
_IMAGE_SIDE = 640


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
    _add_errors(page, shown, evaluated, threshold)
    _add_keypoint_errors(page, shown, evaluated)
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
            (f"{scores['AP']:.1f}", f"AP{_of_task(evaluated.task)}"),
            (f"{scores['AP50']:.1f}", f"AP50{_of_task(evaluated.task)}"),
            *((f"{values['AP']:.1f}", f"AP{_of_task(task)}") for task, values in evaluated.further_scores.items()),
            (f"{threshold:.2f}", "best threshold (mean F1)"),
            (f"{evaluated.parameters / 1e6:.1f} M", "parameters"),
            (
                f"{1000 * evaluated.seconds:.1f} ms",
                f"per image on {cfg.train.device}, without conversion for deployment",
            ),
        ]
    )
    page.heading("COCO metrics")
    if evaluated.task == "bbox" and not evaluated.further_scores:
        page.table(COCO_SCORES, [[_decimal(scores[name]) for name in COCO_SCORES]])
    else:
        by_task = {TASKS[task]: values for task, values in _scores_by_task(evaluated).items()}
        # The AP of small objects is not defined for keypoints.
        rows = [
            [task, *(_decimal(values.get(name, np.nan)) for name in COCO_SCORES)] for task, values in by_task.items()
        ]
        page.table(("task", *COCO_SCORES), rows)
    page.note("APs, APm, APl: AP of small (area < 32²), medium and large (area > 96²) objects; -: no such objects.")


def _scores_by_task(evaluated: EvaluatedRun) -> dict[str, Mapping[str, float]]:
    return {evaluated.task: evaluated.scores, **evaluated.further_scores}


def _of_task(task: str) -> str:
    return "" if task == "bbox" else f" of {TASKS[task]}"


def _overlap(evaluated: EvaluatedRun) -> str:
    """Return the name of the overlap by which detections and objects are matched."""
    return "OKS" if evaluated.task == "keypoints" else "IoU"


def _add_classes(page: Page, evaluated: EvaluatedRun, curves: Sequence[PrecisionRecallCurve]) -> None:
    page.heading("Classes")
    rows = []
    by_task, is_single = _scores_by_task(evaluated), len(evaluated.class_names) == 1
    for name, curve in zip(evaluated.class_names, curves, strict=True):
        best = curve.best_index
        at_best = ["-"] * 4
        if best is not None:
            values = (curve.scores[best], curve.f1[best], curve.precision[best], curve.recall[best])
            at_best = [f"{value:.2f}" for value in values]
        # detectron2 reports no AP per class for a single class.
        class_scores = [values.get("AP" if is_single else f"AP-{name}", np.nan) for values in by_task.values()]
        rows.append([name, str(curve.num_objects), *map(_decimal, class_scores), *at_best])
    columns = [f"AP{_of_task(task)}" for task in by_task]
    page.table(("class", "objects", *columns, "best threshold", "F1", "precision", "recall"), rows)
    overlap = _overlap(evaluated)
    page.note(
        f"Best threshold: score with the highest F1. F1, precision and recall hold at this score and {overlap} 0.5."
    )
    page.plot(precision_recall_figure(curves, evaluated.class_names, overlap), "Precision-recall curves")


def _add_errors(
    page: Page, shown: Sequence[tuple[ImageResult, MatchResult]], evaluated: EvaluatedRun, threshold: float
) -> None:
    class_names = evaluated.class_names
    page.heading("Errors")
    results = [result for result, _ in shown]
    outcomes = np.concatenate([match.outcomes for _, match in shown])
    counts = {name: int((outcomes == number).sum()) for number, name in enumerate(OUTCOMES) if number != IGNORED}
    counts["missed objects"] = sum(len(result.gt_classes) for result in results) - counts["correct"]
    page.plot(bars_figure(counts, f"Detections with a score of at least {threshold:.2f}", "count"), "Error types")
    page.note(
        "duplicate: the object has a better detection; class: overlaps an object of another class; localization: "
        f"overlaps an object of its class too little ({_overlap(evaluated)} 0.1 to 0.5); background: none of these."
    )
    page.plot(confusion_figure(confusion_matrix(results, len(class_names)), class_names), "Confusion matrix")


def _add_keypoint_errors(page: Page, shown: Sequence[tuple[ImageResult, MatchResult]], evaluated: EvaluatedRun) -> None:
    errors = keypoint_errors([result for result, _ in shown], [match for _, match in shown])
    if errors is None or evaluated.skeleton is None:
        return
    page.heading("Keypoints")
    rows = [
        [name, str(count), _decimal(pixels), _decimal(100 * relative), _decimal(100 * found)]
        for name, count, pixels, relative, found in zip(
            evaluated.skeleton.names, errors.counts, errors.pixels, errors.relative, errors.found, strict=True
        )
    ]
    within = f"within {100 * FOUND_DISTANCE:.0f}% of the size, in %"
    page.table(("keypoint", "labeled", "median error in pixels", "median error in % of the size", within), rows)
    page.note(
        "Distances between predicted and labeled keypoints of the correct detections. Size: square root of the area of the "
        "object's box."
    )


def _add_images(page: Page, shown: Sequence[tuple[ImageResult, MatchResult]], evaluated: EvaluatedRun) -> None:
    class_names, skeleton = evaluated.class_names, evaluated.skeleton
    connections = () if skeleton is None else skeleton.connections
    num_errors = [_num_errors(*pair) for pair in shown]
    worst = np.argsort([-count for count in num_errors], kind="stable")[:_SHOWN_IMAGES]
    page.heading("Images with the most errors")
    page.note("Green: correct detection. Red: wrong detection. White: missed object, as labeled.")
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
    image = read_image(result.file_name, result.size)
    original_size = (image.shape[0], image.shape[1])
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
    masks = None
    if result.masks is not None:
        missed_masks = [None] * len(missed) if result.gt_masks is None else [result.gt_masks[i] for i in missed]
        masks = [_resized_mask(mask, original_size, size) for mask in (*missed_masks, *result.masks)]
    keypoints: list[np.ndarray | None] | None = None
    if result.keypoints is not None:
        labeled = [None] * len(missed) if result.gt_keypoints is None else list(result.gt_keypoints[missed])
        points = [*labeled, *result.keypoints]
        keypoints = [None if p is None else p * (scale, scale, 1) for p in points]
    annotated = annotate(image, boxes * scale, labels, colors, masks, keypoints, connections)
    return annotated, f"{Path(result.file_name).name}: {_num_errors(result, match)} errors"


def _resized_mask(mask: Any, original_size: tuple[int, int], size: tuple[int, int]) -> np.ndarray | None:
    """Return a mask as an array (H, W) bool.

    Args:
        mask: a compressed run-length encoding, polygons, an array (H, W) or None.
        original_size: (height, width) of the image.
        size: (width, height) of the result.
    """
    if mask is None:
        return None
    pixels = decode_mask(mask, original_size).astype(np.uint8)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST) > 0


def _decimal(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.1f}"
