"""Results of a search: table, JSON file and plot."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from tabulate import tabulate

from deim.jobs.tuning import Search
from deim.visualization.search import TrialSummary, draw_search


def write_results(search: Search) -> str:
    """Write ``table.md``, ``results.json`` and ``search.png`` into the directory of a search, and return the table."""
    trials = search.summaries()
    keys = [dimension.key for dimension in search.dimensions]
    rows = [
        [
            trial.number,
            trial.state,
            *(trial.values.get(key) for key in keys),
            len(trial.scores),
            trial.best,
            trial.minutes,
        ]
        for trial in sorted(trials, key=lambda trial: (trial.state != "complete", -(trial.best or 0.0)))
    ]
    formats = ["", "", *["g"] * len(keys), "", ".1f", ".1f"]
    headers = ["trial", "state", *keys, "evaluations", f"best {search.metric}", "minutes"]
    table = tabulate(rows, headers=headers, floatfmt=formats, missingval="-", tablefmt="github")
    (search.output / "table.md").write_text(table + "\n", encoding="utf-8")
    content = {"metric": search.metric, "trials": [asdict(trial) for trial in trials]}
    (search.output / "results.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    log_keys = [dimension.key for dimension in search.dimensions if dimension.is_log]
    draw_search(trials, search.metric, log_keys, search.output / "search.png")
    return table


def find_best(trials: Sequence[TrialSummary]) -> TrialSummary | None:
    """Return the complete trial with the highest score; None if no trial is complete."""
    complete = [trial for trial in trials if trial.state == "complete"]
    return max(complete, key=lambda trial: trial.best or 0.0, default=None)
