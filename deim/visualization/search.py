"""Plot of a search over config keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deim.visualization.figures import save

_COLUMNS = 3


@dataclass(frozen=True)
class TrialSummary:
    """Trial of a search.

    Attributes:
        number: number of the trial, counted from 0.
        state: "complete", "pruned", "fail" or "running".
        values: {config key: value} that the trial tries.
        scores: metric of each evaluation in percent.
        best: highest score; None without an evaluation.
        minutes: duration; None for a running trial.
    """

    number: int
    state: str
    values: dict[str, Any]
    scores: list[float]
    best: float | None
    minutes: float | None


def draw_search(trials: Sequence[TrialSummary], metric: str, log_keys: Sequence[str], output: str | Path) -> None:
    """Plot the scores of the trials over their evaluations, and the best score over the value of each key, as a PNG.

    Args:
        trials: trials of the same keys. Those without an evaluation are omitted.
        metric: name of the metric.
        log_keys: keys with a logarithmic axis.
        output: path of the PNG file.
    """
    evaluated = [trial for trial in trials if trial.best is not None]
    keys = list(evaluated[0].values) if evaluated else []
    rows = -(-(len(keys) + 1) // _COLUMNS)
    columns = min(len(keys) + 1, _COLUMNS)
    figure = Figure(figsize=(4.5 * columns, 3.8 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    _draw_scores(axes[0], evaluated)
    axes[0].set(xlabel="evaluation", ylabel=f"{metric} in %", title="Trials (dashed: stopped early)")
    for axis, key in zip(axes[1:], keys, strict=False):
        _draw_values(axis, evaluated, key)
        axis.set(xlabel=key, title=f"Best {metric} per trial")
        if key in log_keys:
            axis.set_xscale("log")
            axis.tick_params(axis="x", which="both", labelrotation=45, labelsize=7)
    for axis in axes[len(keys) + 1 :]:
        axis.axis("off")
    save(figure, output)


def _draw_scores(axis: Axes, trials: Sequence[TrialSummary]) -> None:
    best = max(trials, key=_best_score, default=None)
    for trial in trials:
        style = (
            {"color": "tab:red", "zorder": 3, "label": f"trial {trial.number}"} if trial is best else {"color": "gray"}
        )
        linestyle = "--" if trial.state == "pruned" else "-"
        axis.plot(range(1, len(trial.scores) + 1), trial.scores, marker=".", linestyle=linestyle, **style)
    axis.grid(alpha=0.3)
    if best is not None:
        axis.legend()


def _draw_values(axis: Axes, trials: Sequence[TrialSummary], key: str) -> None:
    """Draw the best score over the values of a key: filled for complete trials, hollow for stopped ones."""
    best = max(trials, key=_best_score, default=None)
    for trial in trials:
        color = "tab:red" if trial is best else "gray"
        face = color if trial.state == "complete" else "none"
        best_score = float(trial.best or 0)
        axis.plot([trial.values[key]], [best_score], "o", markeredgecolor=color, markerfacecolor=face)
        axis.annotate(
            str(trial.number), (trial.values[key], best_score), fontsize=6, xytext=(3, 3), textcoords="offset points"
        )
    axis.grid(alpha=0.3)


def _best_score(trial: TrialSummary) -> tuple[bool, float]:
    """Return a sort key that prefers complete trials."""
    return trial.state == "complete", trial.best if trial.best is not None else float("-inf")
