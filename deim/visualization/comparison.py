"""Comparison of several runs."""

from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from deim.errors import DeimError
from deim.visualization.curves import COCO_SCORES, draw_runs, read_scores


def compare_runs(folders: Sequence[str], output: str | Path) -> str:
    """Plot the AP of runs over their iterations and return a table of their best scores.

    Args:
        folders: ``train.output_dir`` of each run.
        output: path of the PNG file.

    Returns:
        Markdown table with the iteration of the best AP of each run, and all scores at this iteration in percent;
        the last line names the PNG file.

    Raises:
        DeimError: if a folder has no ``metrics.json``, or the file contains no evaluation.
    """
    names = _run_names(folders)
    rows, curves = [], {}
    for name, folder in zip(names, folders, strict=True):
        file = Path(folder) / "metrics.json"
        points = {score: dict(read_scores(file, score)) for score in COCO_SCORES}
        if not points["AP"]:
            raise DeimError(f"{file} contains no AP: the run has not been evaluated yet")
        best = max(points["AP"], key=lambda iteration: points["AP"][iteration])
        rows.append([name, best, *(points[score].get(best) for score in COCO_SCORES)])
        curves[name] = [sorted(points["AP"].items())]
    draw_runs(curves, output)
    table = tabulate(
        rows, headers=["run", "best iteration", *COCO_SCORES], floatfmt=".1f", missingval="-", tablefmt="pipe"
    )
    return f"{table}\nwrote {output}"


def _run_names(folders: Sequence[str]) -> list[str]:
    """Return names of the runs: their folder names, or the paths as given if two folder names are equal."""
    names = [Path(folder).resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]
