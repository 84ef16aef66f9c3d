"""Printing and flattening of evaluation results."""

import logging
from collections.abc import Mapping

__all__ = ["flatten_results_dict", "print_csv_format"]


def print_csv_format(results):
    """Log the main metrics of each task as two lines to paste into a spreadsheet.

    Args:
        results: ``{task: {metric: value}}``. Per-class metrics are skipped.

    Raises:
        AssertionError: if ``results`` is neither a mapping nor empty.
    """
    if not isinstance(results, Mapping) and len(results):
        raise AssertionError(f"Expected a dict of results, got {results!r}")
    logger = logging.getLogger(__name__)
    for task, metrics in results.items():
        if not isinstance(metrics, Mapping):
            logger.info(f"copypaste: {task}={metrics}")
            continue
        main_metrics = {name: value for name, value in metrics.items() if "-" not in name}  # no per-class AP
        logger.info(f"copypaste: Task: {task}")
        logger.info("copypaste: " + ",".join(main_metrics))
        logger.info("copypaste: " + ",".join(f"{value:.4f}" for value in main_metrics.values()))


def flatten_results_dict(results):
    """Flatten a nested dict: ``{"bbox": {"AP": 1}}`` becomes ``{"bbox/AP": 1}``."""
    flat = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            flat.update({name + "/" + inner: v for inner, v in flatten_results_dict(value).items()})
        else:
            flat[name] = value
    return flat
