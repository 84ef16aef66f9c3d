"""Pictures that people look at: curves of a run, boxes on images."""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from detectron2.structures import Instances
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from deim.data.image import read_image
from deim.data.records import annotation_arrays, stated_size
from deim.errors import DeimError


def draw_metrics(metrics_file: str | Path, output: str | Path) -> None:
    """Draw total loss, learning rate and AP over the iterations of a run as a PNG.

    Args:
        metrics_file: detectron2's ``metrics.json``.
        output: the picture to write.

    Raises:
        DeimError: the file is missing, malformed or holds no losses.
    """
    losses, rates = _series(metrics_file, "total_loss"), _series(metrics_file, "lr")
    if not losses:
        raise DeimError(f"{metrics_file} holds no total_loss: has the run written any metrics yet?")
    scores = {name: _series(metrics_file, f"bbox/{name}") for name in ("AP", "AP50", "AP75")}
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(*zip(*losses, strict=True), color="tab:blue")
    left.set(xlabel="iteration", ylabel="total loss", title="Training loss")
    left.grid(alpha=0.3)
    if rates:
        twin = left.twinx()
        twin.plot(*zip(*rates, strict=True), color="tab:gray", linestyle="--", linewidth=1)
        twin.set_ylabel("learning rate (dashed)")
        twin.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    for name, points in scores.items():
        if points:
            right.plot(*zip(*points, strict=True), marker="o", label=f"{name} {points[-1][1]:.1f}")
    right.set(xlabel="iteration", ylabel="%", ylim=(0, 100), title="Box AP on the test split")
    right.grid(alpha=0.3)
    if any(scores.values()):
        right.legend(title="last value")
    _save(figure, output)


def _series(metrics_file: str | Path, name: str) -> list[tuple[int, float]]:
    """[(iteration, value)] of one scalar, in order; of a repeated iteration the last."""
    path = Path(metrics_file)
    if not path.is_file():
        raise DeimError(f"metrics file {path} does not exist")
    found = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            scalars = json.loads(line)
        except ValueError as error:
            raise DeimError(f"{path}, line {number}, is not valid JSON: {error}") from error
        if name in scalars:
            found[scalars["iteration"]] = scalars[name]
    return sorted(found.items())


def _grid(count: int, columns: int) -> tuple[Figure, list[Axes]]:
    """A figure with room for ``count`` images."""
    rows = max(-(-count // columns), 1)
    figure = Figure(figsize=(3.2 * columns, 3.2 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.axis("off")
    return figure, axes


def _class_colours(class_names: Sequence[str]) -> np.ndarray:
    """(K, 4) RGBA."""
    return matplotlib.colormaps["hsv"](np.linspace(0, 1, len(class_names), endpoint=False))


def draw_detections(
    images: Sequence[np.ndarray],
    truths: Sequence[tuple[np.ndarray, np.ndarray]],
    detections: Sequence[Instances],
    class_names: Sequence[str],
    output: str | Path,
    threshold: float = 0.5,
    columns: int = 4,
) -> None:
    """Draw images in a grid, ground truth in white dashes, detections in the colour of their class.

    Args:
        images: (H, W, 3) RGB uint8.
        truths: boxes (N, 4) XYXY and classes (N,) of each image.
        detections: predictions of each image, at its size.
        threshold: detections of a lower score are left out.
    """
    figure, axes = _grid(len(images), columns)
    colours = _class_colours(class_names)
    for axis, image, (boxes, _), found in zip(axes, images, truths, detections, strict=False):
        axis.imshow(image)
        for box in boxes:
            _draw_box(axis, box, "white", linestyle="--")
        for box, score, index in zip(
            found.pred_boxes.tensor.tolist(), found.scores.tolist(), found.pred_classes.tolist(), strict=True
        ):
            if score >= threshold:
                _draw_box(axis, box, colours[index], f"{class_names[index]} {score:.2f}")
    figure.suptitle(f"dashed white: ground truth; coloured: detections with score ≥ {threshold:g}", fontsize=9)
    _save(figure, output)


def _draw_box(axis: Axes, box: Sequence[float], colour: object, label: str = "", linestyle: str = "-") -> None:
    left, top, right, bottom = box
    axis.add_patch(
        Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linestyle=linestyle)
    )
    if label:
        axis.text(
            left,
            top,
            label,
            fontsize=6,
            color="black",
            verticalalignment="bottom",
            bbox={"facecolor": colour, "alpha": 0.7, "pad": 0.6, "edgecolor": "none"},
            clip_on=True,
        )


def _save(figure: Figure, output: str | Path) -> None:
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)


def draw_samples(samples: Sequence[dict], class_names: Sequence[str], output: str | Path, columns: int = 4) -> None:
    """Draw training samples in a grid, as the model gets them, with the boxes of their objects.

    Args:
        samples: with ``image`` uint8 (3, H, W) RGB and ``instances``.
    """
    figure, axes = _grid(len(samples), columns)
    colours = _class_colours(class_names)
    for axis, sample in zip(axes, samples, strict=False):
        axis.imshow(sample["image"].numpy().transpose(1, 2, 0))
        instances = sample["instances"]
        for box, index in zip(instances.gt_boxes.tensor.tolist(), instances.gt_classes.tolist(), strict=True):
            _draw_box(axis, box, colours[index], class_names[index])
    _save(figure, output)


def draw_dataset(records: Sequence[dict], class_names: Sequence[str], output: str | Path, columns: int = 4) -> None:
    """Draw images of a data set in a grid with the objects that are trained on."""
    figure, axes = _grid(len(records), columns)
    colours = _class_colours(class_names)
    for axis, record in zip(axes, records, strict=False):
        axis.imshow(read_image(record["file_name"], stated_size(record)))
        axis.set_title(Path(record["file_name"]).name, fontsize=6)
        for box, index in zip(*(values.tolist() for values in annotation_arrays(record)), strict=True):
            if 0 <= index < len(class_names):
                _draw_box(axis, box, colours[index], class_names[index])
    _save(figure, output)


def draw_statistics(
    boxes: Sequence[np.ndarray], class_counts: np.ndarray, class_names: Sequence[str], output: str | Path
) -> None:
    """Draw how often classes, sizes of objects and numbers of objects in an image occur.

    Args:
        boxes: (N, 4) XYXY of each image.
        class_counts: (K,) objects of each class; the forty commonest are shown.
    """
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    classes, sizes, numbers = figure.subplots(1, 3, width_ratios=(2, 1, 1))
    order = np.argsort(-class_counts, kind="stable")[:40]
    classes.bar(range(len(order)), class_counts[order])
    classes.set_xticks(range(len(order)), [class_names[i] for i in order], rotation=90, fontsize=7)
    classes.set(ylabel="objects", title=f"classes ({len(order)} of {len(class_names)})")
    every = np.concatenate(boxes)
    sides = np.sqrt((every[:, 2:] - every[:, :2]).prod(axis=1).clip(min=0))
    if len(sides):
        sizes.hist(sides, bins=np.geomspace(1, max(float(sides.max()), 2.0), 40))
        sizes.set_xscale("log")
    for side in (32, 96):
        sizes.axvline(side, color="gray", linestyle="--", linewidth=1)
    sizes.set(xlabel="square root of the area in pixels", title="sizes (dashed: COCO's small, medium, large)")
    counts = [len(one) for one in boxes]
    numbers.hist(counts, bins=np.arange(max(counts) + 2) - 0.5 if max(counts) < 60 else 60)
    numbers.set(xlabel="objects", ylabel="images", title="objects in an image")
    _save(figure, output)
