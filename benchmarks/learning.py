"""AP over training time and over epochs, of this project and of the official DEIM code.

Both train the same model on the same images, from the same weights, with the same settings, each with its own data loader
and trainer, one run after the other.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from matplotlib.figure import Figure

from benchmarks.isolation import run_in_new_process
from benchmarks.learning_runs import Code, DeimCode, OfficialCode, Point, Settings, our_settings, train, write_start
from deim.config import load_config
from deim.engine.evaluation import evaluate_checkpoint
from deim.errors import ConfigError
from deim.measurement.timing import print_report
from deim.visualization.figures import save

# Fractions of the lowest best AP of all runs, for which the table has the training time.
FRACTIONS = (0.5, 0.8, 0.9, 0.95)

# {name of the code: {seed: evaluations}}
Curves = Mapping[str, Mapping[int, Sequence[Point]]]


def run(
    settings: Settings, seeds: Sequence[int], output: str, peer: str | None, python: str, test_file: str | None
) -> None:
    """Train all runs that ``output`` has no result of, print two tables and draw the curves.

    Args:
        settings: settings of all runs.
        seeds: seeds; each code trains one run per seed.
        output: folder for the runs, their results (``<code>_<seed>.json``), ``learning.json`` and ``learning.png``.
        peer: checkout of the official DEIM code; None to train only this project's.
        python: Python interpreter for the official code.
        test_file: COCO file with images that no run has used; None to skip the test.

    Raises:
        ConfigError: if ``output`` has results with other settings.
        DeimError: if a run fails.
    """
    folder = Path(output).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    _check_settings(settings, folder / "settings.json")
    codes: list[Code] = [DeimCode(), *([] if peer is None else [OfficialCode(peer, python)])]
    curves: dict[str, dict[int, list[Point]]] = {code.name: {} for code in codes}
    rows = []
    for number, seed in enumerate(seeds):
        if not all(_result_file(folder, code, seed).exists() for code in codes):
            write_start(settings, seed, _start_file(folder, seed))
        for code in codes:
            print(f"{code.name}, seed {seed} ({number + 1} of {len(seeds)}) ...", flush=True)
            result = _result(code, settings, seed, folder, test_file)
            points = curves[code.name][seed] = [Point(**point) for point in result["points"]]
            rows.append(_run_row(code.name, seed, points, result.get("test")))
    print_report(rows, str(folder / "learning.json"), torch.device("cpu"))
    print_report(time_rows(curves), None, torch.device("cpu"))
    draw_curves(curves, folder / "learning.png")
    print(f"wrote {folder / 'learning.json'} and {folder / 'learning.png'}")


def _result_file(folder: Path, code: Code, seed: int) -> Path:
    return folder / f"{code.name}_{seed}.json"


def _start_file(folder: Path, seed: int) -> Path:
    return folder / f"start_{seed}.pth"


def _check_settings(settings: Settings, file: Path) -> None:
    content = json.dumps(asdict(settings), indent=2) + "\n"
    if file.exists() and file.read_text(encoding="utf-8") != content:
        raise ConfigError(f"{file.parent} has runs with other settings: choose another --output, or delete the folder")
    file.write_text(content, encoding="utf-8")


def _result(code: Code, settings: Settings, seed: int, folder: Path, test_file: str | None) -> dict:
    """Return the result of a run; train it if there is none yet."""
    file = _result_file(folder, code, seed)
    if file.exists():
        return json.loads(file.read_text(encoding="utf-8"))
    run_folder = folder / f"{code.name}_{seed}"
    result: dict = {
        "points": [asdict(point) for point in train(code, settings, _start_file(folder, seed), run_folder, seed)]
    }
    if test_file is not None:
        checkpoint = str(code.best_checkpoint(run_folder))
        result["test"] = run_in_new_process(score_checkpoint, settings, checkpoint, str(Path(test_file).resolve()))
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def score_checkpoint(settings: Settings, checkpoint: str, json_file: str) -> float:
    """Return the AP in percent of a checkpoint of either code on images of its own, by this project's evaluation."""
    overrides = [f"{key}={value}" for key, value in our_settings(settings).items()]
    overrides += [f"dataloader.test.dataset.json_file={json_file}", f"train.init_checkpoint={checkpoint}"]
    config = load_config(settings.recipe, overrides, settings.data, settings.image_root)
    return evaluate_checkpoint(config)["bbox"]["AP"]


def _run_row(name: str, seed: int, points: Sequence[Point], test: float | None) -> dict[str, str | float]:
    best = max(points, key=lambda point: point.ap)
    row: dict[str, str | float] = {"code": name, "seed": seed, "training, min": points[-1].seconds / 60}
    row |= {"best AP": best.ap, "epoch": best.epoch, "last AP": points[-1].ap}
    return row if test is None else row | {"AP on test images": test}


def time_rows(curves: Curves) -> list[dict[str, str | float]]:
    """Return the training time of each code to several APs, as median and range over the seeds.

    The APs are fractions of the lowest best AP of all runs, so that every run reaches them.
    """
    lowest = min(max(point.ap for point in points) for runs in curves.values() for points in runs.values())
    rows = []
    for fraction in FRACTIONS:
        ap = fraction * lowest
        row: dict[str, str | float] = {"AP": ap}
        medians = []
        for name, runs in curves.items():
            reached = [next(point for point in points if point.ap >= ap) for points in runs.values()]
            minutes = [point.seconds / 60 for point in reached]
            medians.append(statistics.median(minutes))
            row[f"{name}, epochs"] = _with_range([point.epoch for point in reached], ".3g")
            row[f"{name}, min"] = _with_range(minutes, ".1f")
        if len(medians) == 2:
            row["time / official"] = medians[0] / medians[1]
        rows.append(row)
    return rows


def _with_range(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def draw_curves(curves: Curves, output: Path) -> None:
    """Draw AP over training time and over epochs, one line per run and one color per code."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for number, (name, runs) in enumerate(curves.items()):
        for index, points in enumerate(runs.values()):
            style = {"color": f"C{number}", "alpha": 0.8, "linewidth": 1.3, "label": name if index == 0 else None}
            aps = [point.ap for point in points]
            axes[0].plot([point.seconds / 60 for point in points], aps, **style)
            axes[1].plot([point.epoch for point in points], aps, **style)
    axes[0].set(xlabel="training time in minutes", ylabel="AP on the validation images in %", ylim=(0, None))
    axes[1].set(xlabel="epochs")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend()
    save(figure, output)
