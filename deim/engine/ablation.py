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
from deim.processes import deim_command, deim_environment
from deim.visualization import draw_runs, last_scores, read_scores


@dataclass(frozen=True)
class Variant:
    """One cell of the ablation matrix.

    Attributes:
        name: difference from the recipe.
        states: {switch: whether it is on}.
        runs: output directory per seed, each with the run's config in ``planned.yaml``.
    """

    name: str
    states: dict[str, bool]
    runs: tuple[Path, ...]

    @property
    def finished(self) -> list[Path]:
        return [run for run in self.runs if (run / "model_final.pth").is_file()]


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
    start = load_config(config_file, overrides)
    now = {name: is_on(start, name) for name in switches}
    if all_combinations:
        wanted = [dict(zip(switches, flags, strict=True)) for flags in itertools.product(*[(True, False)] * len(now))]
    else:
        wanted = [now, *({**now, name: not now[name]} for name in switches)]
    variants = []
    for states in wanted:
        changed = [f"{name} {'on' if on else 'off'}" for name, on in states.items() if on != now[name]]
        name = ", ".join(changed) or "as it is"
        folder = output / name.replace(", ", "_").replace(" ", "-")
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
    former = path.read_text(encoding="utf-8") if path.is_file() else None
    LazyConfig.save(cfg, str(path))
    if former is not None and path.read_text(encoding="utf-8") != former:
        path.write_text(former, encoding="utf-8")
        raise ConfigError(f"{path} holds the config of a different ablation. Choose another --output or delete it")


def run(variants: Sequence[Variant], num_gpus: int = 1) -> None:
    """Train all unfinished runs sequentially, resuming interrupted ones.

    Raises:
        ConfigError: if a run fails; its own error message is printed before.
    """
    waiting = [run for variant in variants for run in variant.runs if run not in variant.finished]
    start = time.monotonic()
    for number, folder in enumerate(waiting):
        left = (
            timedelta(seconds=round((time.monotonic() - start) / number * (len(waiting) - number))) if number else "?"
        )
        print(f"run {number + 1} of {len(waiting)}: {folder} (time left: {left})", flush=True)
        arguments = ["--config-file", str(folder / "planned.yaml"), "--resume", "--num-gpus", str(num_gpus)]
        done = subprocess.run(deim_command("train", *arguments), env=deim_environment(), check=False)
        if done.returncode != 0:
            raise ConfigError(f"the run in {folder} failed with exit status {done.returncode}; its error is above")


def report(variants: Sequence[Variant], output: Path) -> str:
    """Write ``table.md``, ``results.json`` and ``curves.png`` of the finished runs, and return the table."""
    rows, results = [], {}
    for variant in variants:
        scores = [last_scores(run / "metrics.json") for run in variant.finished]
        results[variant.name] = {"states": variant.states, "scores": scores}
        cells = [_spread([one[metric] for one in scores if metric in one]) for metric in ("AP", "AP50", "AP75")]
        rows.append([variant.name, *("x" if on else "" for on in variant.states.values()), len(scores), *cells])
    switches = list(variants[0].states)
    table = tabulate(rows, headers=["", *switches, "runs", "AP", "AP50", "AP75"], tablefmt="github")
    output.mkdir(parents=True, exist_ok=True)
    (output / "table.md").write_text(table + "\n", encoding="utf-8")
    (output / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    draw_runs(
        {v.name: [read_scores(run / "metrics.json", "AP") for run in v.finished] for v in variants},
        output / "curves.png",
    )
    return table


def _spread(values: Sequence[float]) -> str:
    """Format the mean and the range of ``values``."""
    if not values:
        return "-"
    mean = f"{sum(values) / len(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"
