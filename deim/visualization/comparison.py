"""Several runs side by side."""

from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from deim.errors import DeimError
from deim.visualization.curves import COCO_SCORES, draw_runs, read_scores


def compare_runs(folders: Sequence[str], output: str | Path) -> str:
    """Draw the AP of runs over their iterations.

    Args:
        folders: ``train.output_dir`` of each run.
        output: the PNG to write.

    Returns:
        a table: for each run the iteration with the best AP, and its scores there in percent.

    Raises:
        DeimError: a folder has no ``metrics.json``, or no evaluation in it.
    """
    names = _short(folders)
    rows, curves = [], {}
    for name, folder in zip(names, folders, strict=True):
        file = Path(folder) / "metrics.json"
        points = {score: dict(read_scores(file, score)) for score in COCO_SCORES}
        if not points["AP"]:
            raise DeimError(f"{file} holds no AP: the run has not been evaluated yet")
        best = max(points["AP"], key=lambda iteration: points["AP"][iteration])
        rows.append([name, best, *(points[score].get(best) for score in COCO_SCORES)])
        curves[name] = [sorted(points["AP"].items())]
    draw_runs(curves, output)
    table = tabulate(
        rows, headers=["run", "best iteration", *COCO_SCORES], floatfmt=".1f", missingval="-", tablefmt="pipe"
    )
    return f"{table}\nwrote {output}"


def _short(folders: Sequence[str]) -> list[str]:
    """Names that tell the runs apart: those of the folders, or their paths if two have one name."""
    names = [Path(folder).resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]
