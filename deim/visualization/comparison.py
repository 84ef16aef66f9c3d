"""Comparison of several runs."""

import math
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from deim.errors import DeimError
from deim.tasks import TASKS
from deim.visualization.curves import COCO_SCORES, draw_runs, evaluated_tasks, read_scores


def compare_runs(folders: Sequence[str], output: str | Path) -> str:
    """Plot the AP of runs over their iterations and return a table of their best scores.

    Args:
        folders: ``train.output_dir`` of each run.
        output: path of the PNG file.

    Returns:
        Markdown table with the iteration of the best AP of each run, and all scores at this iteration in percent;
        the last line names the PNG file. The scores are those of boxes or, if these were not evaluated, of masks or
        keypoints. If a run has evaluated several of them, further columns have the AP of masks and keypoints.

    Raises:
        DeimError: if a folder has no ``metrics.json``, or the file contains no evaluation.
    """
    names = _run_names(folders)
    files = [Path(folder) / "metrics.json" for folder in folders]
    tasks = [evaluated_tasks(file) for file in files]
    further = [task for task in TASKS if any(task in run_tasks[1:] for run_tasks in tasks)]
    rows, curves = [], {}
    for name, file in zip(names, files, strict=True):
        points = {
            score: {iteration: value for iteration, value in read_scores(file, score) if math.isfinite(value)}
            for score in COCO_SCORES
        }
        if not points["AP"]:
            raise DeimError(f"{file} contains no AP: the run has not been evaluated yet")
        best = max(points["AP"], key=lambda iteration: points["AP"][iteration])
        further_scores = [dict(read_scores(file, "AP", task)).get(best) for task in further]
        rows.append([name, best, *(points[score].get(best) for score in COCO_SCORES), *further_scores])
        curves[name] = [sorted(points["AP"].items())]
    draw_runs(curves, output)
    headers = ["run", "best iteration", *COCO_SCORES, *(f"AP of {TASKS[task]}" for task in further)]
    table = tabulate(rows, headers=headers, floatfmt=".1f", missingval="-", tablefmt="pipe")
    return f"{table}\nwrote {output}"


def _run_names(folders: Sequence[str]) -> list[str]:
    """Return names of the runs: their folder names, or the paths as given if two folder names are equal."""
    names = [Path(folder).resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]
