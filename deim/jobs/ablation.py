"""Ablation runs: one recipe with components switched on and off."""

import itertools
import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from tabulate import tabulate

from deim.config import is_on, load_config, switch
from deim.errors import ConfigError
from deim.processes import PREEMPTED_EXIT_STATUS, child_command, deim_environment
from deim.tasks import TASKS
from deim.visualization import draw_runs, last_scores, read_scores

# Name of the variant that is the unchanged recipe.
BASELINE = "baseline"
# Ablations started by earlier versions are continued in this folder.
_FORMER_BASELINE_FOLDER = "as-it-is"


@dataclass(frozen=True)
class Variant:
    """Recipe with some components switched on or off.

    Attributes:
        name: difference from the recipe; "baseline" for the unchanged recipe.
        states: {switch: whether it is on}.
        runs: output directory per seed, each with the run's config in ``planned.yaml``.
    """

    name: str
    states: dict[str, bool]
    runs: tuple[Path, ...]

    @property
    def finished(self) -> list[Path]:
        return [run for run in self.runs if _is_finished(run)]


def _is_finished(run: Path) -> bool:
    """Return whether a run has written its final checkpoint and the results of its last evaluation.

    The last evaluation of a complete run has a line of its own in ``metrics.json``. A run that ends early
    (``train.early_stopping``) ends with an evaluation after an iteration, whose line also has the losses.
    """
    if not (run / "model_final.pth").is_file() or not (run / "metrics.json").is_file():
        return False
    lines = (run / "metrics.json").read_text(encoding="utf-8").splitlines()
    if not lines:
        return False
    scalars = json.loads(lines[-1])
    return "total_loss" not in scalars or any(f"{task}/AP" in scalars for task in TASKS)


def plan(
    config_file: str,
    overrides: Sequence[str],
    switches: Sequence[str],
    seeds: Sequence[int],
    output: Path,
    all_combinations: bool = False,
) -> list[Variant]:
    """Write the config of every run.

    Args:
        config_file, overrides: see :func:`deim.config.load_config`.
        switches: names in :data:`deim.config.SWITCHES`.
        seeds: each variant is trained once per seed.
        output: directory of the ablation.
        all_combinations: plan all combinations of the switches; otherwise the unchanged recipe and one variant per
            switch, with that switch toggled.

    Raises:
        ConfigError: if a switch is unknown or the recipe lacks the component.
    """
    recipe = load_config(config_file, overrides)
    recipe_states = {name: is_on(recipe, name) for name in switches}
    if all_combinations:
        combinations = itertools.product((True, False), repeat=len(switches))
        variant_states = [dict(zip(switches, flags, strict=True)) for flags in combinations]
    else:
        variant_states = [recipe_states, *({**recipe_states, name: not recipe_states[name]} for name in switches)]
    variants = []
    for states in variant_states:
        changed = [f"{name} {'on' if on else 'off'}" for name, on in states.items() if on != recipe_states[name]]
        name = ", ".join(changed) or BASELINE
        folder = output / name.replace(", ", "_").replace(" ", "-")
        former_folder = output / _FORMER_BASELINE_FOLDER
        if name == BASELINE and former_folder.is_dir():
            folder = former_folder
        runs = tuple(folder / f"seed{seed}" for seed in seeds)
        variants.append(Variant(name, states, runs))
        for run, seed in zip(runs, seeds, strict=True):
            cfg = switch(load_config(config_file, overrides), **states)
            cfg.train.seed, cfg.train.output_dir = seed, str(run)
            _write(cfg, run / "planned.yaml")
    return variants


def _write(cfg: Any, path: Path) -> None:
    """Write the config of a run.

    Raises:
        ConfigError: if ``path`` already holds a different config.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    previous = path.read_text(encoding="utf-8") if path.is_file() else None
    LazyConfig.save(cfg, str(path))
    if previous is not None and path.read_text(encoding="utf-8") != previous:
        path.write_text(previous, encoding="utf-8")
        raise ConfigError(
            f"{path} holds the config of a different ablation. Choose another --output or delete {path.parent}"
        )


def run(variants: Sequence[Variant], num_gpus: int = 1) -> None:
    """Train all unfinished runs sequentially, resuming interrupted ones.

    The runs end when this process ends, however that happens.

    Raises:
        ConfigError: if a run fails; its own error message is printed before.
        SystemExit: if a run was stopped by a signal, and has saved a checkpoint.
    """
    unfinished = [run for variant in variants for run in variant.runs if run not in variant.finished]
    start = time.monotonic()
    for number, folder in enumerate(unfinished):
        time_left = (
            timedelta(seconds=round((time.monotonic() - start) / number * (len(unfinished) - number)))
            if number
            else "?"
        )
        print(f"run {number + 1} of {len(unfinished)}: {folder} (time left: {time_left})", flush=True)
        arguments = ["--config-file", str(folder / "planned.yaml"), "--resume", "--num-gpus", str(num_gpus)]
        process = subprocess.run(child_command("train", *arguments), env=deim_environment(), check=False)
        if process.returncode == PREEMPTED_EXIT_STATUS:
            raise SystemExit(PREEMPTED_EXIT_STATUS)
        if process.returncode != 0:
            raise ConfigError(f"the run in {folder} failed with exit status {process.returncode}; its error is above")


def write_results(variants: Sequence[Variant], output: Path) -> str:
    """Write ``table.md``, ``results.json`` and ``curves.png`` of the finished runs, and return the table."""
    rows, results = [], {}
    for variant in variants:
        scores = [last_scores(run / "metrics.json") for run in variant.finished]
        results[variant.name] = {"states": variant.states, "scores": scores}
        cells = [
            _mean_and_range([run_scores[metric] for run_scores in scores if metric in run_scores])
            for metric in ("AP", "AP50", "AP75")
        ]
        rows.append([variant.name, *("x" if on else "" for on in variant.states.values()), len(scores), *cells])
    switches = list(variants[0].states)
    table = tabulate(rows, headers=["", *switches, "runs", "AP", "AP50", "AP75"], tablefmt="github")
    output.mkdir(parents=True, exist_ok=True)
    (output / "table.md").write_text(table + "\n", encoding="utf-8")
    (output / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    draw_runs(
        {variant.name: [read_scores(run / "metrics.json", "AP") for run in variant.finished] for variant in variants},
        output / "curves.png",
    )
    return table


def _mean_and_range(values: Sequence[float]) -> str:
    """Format the mean and the range of ``values``."""
    if not values:
        return "-"
    mean = f"{sum(values) / len(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"
