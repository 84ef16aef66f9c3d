"""Curves of training metrics."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from deim.errors import DeimError
from deim.tasks import TASKS
from deim.visualization.figures import save

COCO_SCORES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_SCORES = COCO_SCORES[:3]


def draw_metrics(metrics_file: str | Path, output: str | Path) -> None:
    """Plot the total loss, learning rate and AP of a run over its iterations as a PNG.

    If several of boxes, masks and keypoints were evaluated, the AP of each is plotted, otherwise AP, AP50 and AP75.

    Args:
        metrics_file: detectron2's ``metrics.json``.
        output: path of the PNG file.

    Raises:
        DeimError: if the file is missing, malformed or contains no losses.
    """
    losses, rates = _series(metrics_file, "total_loss"), _series(metrics_file, "lr")
    if not losses:
        raise DeimError(f"{metrics_file} contains no total_loss: has the run written any metrics yet?")
    tasks = evaluated_tasks(metrics_file) or ["bbox"]
    if len(tasks) == 1:
        scores = {name: read_scores(metrics_file, name, tasks[0]) for name in _SCORES}
    else:
        scores = {f"AP of {TASKS[task]}": read_scores(metrics_file, "AP", task) for task in tasks}
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
    title = f"AP of {TASKS[tasks[0]]} on the test split" if len(tasks) == 1 else "AP on the test split"
    right.set(xlabel="iteration", ylabel="%", ylim=(0, 100), title=title)
    right.grid(alpha=0.3)
    if any(scores.values()):
        right.legend(title="last value")
    save(figure, output)


def draw_runs(runs: Mapping[str, Sequence[Sequence[tuple[int, float]]]], output: str | Path) -> None:
    """Plot the AP of several runs over their iterations as a PNG.

    Args:
        runs: {name: [(iteration, AP)] of each run with this name}; runs with the same name share a color.
        output: path of the PNG file.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, (name, curves) in enumerate(runs.items()):
        for index, points in enumerate(curves):
            label = f"{name}: {points[-1][1]:.1f}" if index == 0 and points else None
            axes.plot(*zip(*points, strict=True), marker="o", color=f"C{number}", label=label)
    axes.set(xlabel="iteration", ylabel="AP in %", title="AP on the test split", ylim=(0, None))
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        has_repeats = any(len(curves) > 1 for curves in runs.values())
        axes.legend(title="last value of the first run" if has_repeats else "last value")
    save(figure, output)


def evaluated_tasks(metrics_file: str | Path) -> list[str]:
    """Return the keys of :data:`deim.tasks.TASKS` that a run has evaluated.

    Raises:
        DeimError: if the file is missing or malformed.
    """
    return [task for task in TASKS if _series(metrics_file, f"{task}/AP")]


def read_scores(metrics_file: str | Path, name: str, task: str | None = None) -> list[tuple[int, float]]:
    """Return [(iteration, value in %)] of the evaluations of a run for a COCO metric, such as "AP" or "AP50".

    Args:
        metrics_file: detectron2's ``metrics.json``.
        name: name of the metric.
        task: a key of :data:`deim.tasks.TASKS`; by default boxes or, if no boxes were evaluated, masks or keypoints.

    Raises:
        DeimError: if the file is missing or malformed.
    """
    if task is None:
        task = next(iter(evaluated_tasks(metrics_file)), "bbox")
    return _series(metrics_file, f"{task}/{name}")


def last_scores(metrics_file: str | Path) -> dict[str, float]:
    """Return {"AP": ..., "AP50": ..., "AP75": ...} of the last evaluation of a run, in %; empty if there was none.

    They are those of the boxes, if these were evaluated; otherwise those of masks or keypoints. If several of them were
    evaluated, "AP of masks" and "AP of keypoints" follow.

    Raises:
        DeimError: if the file is missing or malformed.
    """
    scores = {name: read_scores(metrics_file, name) for name in _SCORES}
    for task in evaluated_tasks(metrics_file)[1:]:
        scores[f"AP of {TASKS[task]}"] = read_scores(metrics_file, "AP", task)
    return {name: points[-1][1] for name, points in scores.items() if points}


def _series(metrics_file: str | Path, name: str) -> list[tuple[int, float]]:
    """Return [(iteration, value)] of one scalar in order; the last value wins if an iteration occurs repeatedly."""
    path = Path(metrics_file)
    if not path.is_file():
        raise DeimError(f"metrics file {path} does not exist")
    values = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            scalars = json.loads(line)
        except ValueError as error:
            raise DeimError(f"{path}, line {number}, is not valid JSON: {error}") from error
        # Lines of other programs, such as results that a script appends, may lack the iteration.
        if isinstance(scalars, dict) and name in scalars and "iteration" in scalars:
            values[scalars["iteration"]] = scalars[name]
    return sorted(values.items())
