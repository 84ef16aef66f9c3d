"""Folders for the Hugging Face Hub: weights, config and model card of a trained model."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deim.config import load_config
from deim.conversion.hub_folder import find_checkpoint, write_hub_folder
from deim.data.datasets.names import registered_name
from deim.errors import ConfigError, DeimError
from deim.inference.predictor import Predictor
from deim.reporting.model_card import ModelCard
from deim.tasks import TASKS
from deim.visualization import draw_metrics
from deim.visualization.curves import COCO_SCORES, read_scores

# Licenses of weights that are not those of this package: start of the name of a backbone -> license.
_BACKBONE_LICENSES = {"dinov3_": "other"}


@dataclass(frozen=True)
class PublishedModel:
    """A model that was written to a folder.

    Attributes:
        checkpoint: path of the checkpoint.
        files: names of the files in the folder.
    """

    checkpoint: Path
    files: list[str]


def write_model_folder(
    source: str, out: Path, name: str, image: str | None = None, license: str | None = None
) -> PublishedModel:
    """Write the weights, the config and the card of a model to a folder.

    Args:
        source: folder of a run, or a checkpoint in any supported format.
        out: the folder.
        name: name of the repository, for the card.
        image: image on which the model is shown. By default, no image is published.
        license: license of the weights on the card; default: "apache-2.0", or "other" for models on weights of DINOv3.

    Raises:
        DeimError: if the checkpoint cannot be read or has no known model, or the folder cannot be written.
    """
    checkpoint = find_checkpoint(source)
    metadata = write_hub_folder(checkpoint, out)
    card = ModelCard(name, metadata, license or _default_license(metadata))
    try:
        _add_run(card, Path(checkpoint), out)
        if image is not None:
            card.image = "detections.jpg"
            Predictor(out)(image).draw().save(out / card.image, quality=92)
        (out / "README.md").write_text(card.text(), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error}") from error
    figures = [name for name in (card.curves, card.image) if name]
    return PublishedModel(Path(checkpoint), ["config.json", "model.safetensors", "README.md", *figures])


def _default_license(metadata: dict[str, Any]) -> str:
    backbone = metadata["config"]["model"].get("backbone")
    size = str(backbone.get("size", "")) if isinstance(backbone, dict) else ""
    return next((value for start, value in _BACKBONE_LICENSES.items() if size.startswith(start)), "apache-2.0")


def _add_run(card: ModelCard, checkpoint: Path, out: Path) -> None:
    """Add datasets, scores and curves of the run that a checkpoint belongs to."""
    config_file, metrics = checkpoint.with_name("config.yaml"), checkpoint.with_name("metrics.json")
    if not config_file.is_file() or not metrics.is_file():
        return
    cfg = load_config(str(config_file))
    nodes = (cfg.dataloader.train.get("dataset"), cfg.dataloader.test.get("dataset"))
    card.datasets = [name for node in nodes if (name := registered_name(node))]
    card.scores = _scores(metrics, cfg.train.best_metric, checkpoint.name)
    try:
        draw_metrics(metrics, out / "curves.png")
        card.curves = "curves.png"
    except DeimError:  # a run without a logged loss has no curves
        pass


def _scores(metrics: Path, best_metric: str, checkpoint: str) -> dict[str, dict[str, float]]:
    """Return {task: {metric: value}} of the evaluation of a checkpoint, given by its file name."""
    task, _, name = best_metric.partition("/")
    points = {iteration: value for iteration, value in read_scores(metrics, name, task) if math.isfinite(value)}
    iteration = _evaluated_iteration(checkpoint, points)
    values = {
        task: {name: dict(read_scores(metrics, name, task)).get(iteration) for name in COCO_SCORES} for task in TASKS
    }
    scores = {
        task: {name: value for name, value in row.items() if value is not None and value == value}
        for task, row in values.items()
    }
    return {task: row for task, row in scores.items() if row}


def _evaluated_iteration(checkpoint: str, points: Mapping[int, float]) -> int:
    """Return the iteration of the evaluation of a checkpoint of a run; -1 if it is unknown.

    Args:
        checkpoint: file name, such as "model_best.pth".
        points: {iteration: best metric} of all evaluations of the run.
    """
    if checkpoint == "model_best.pth":
        return max(points, key=lambda key: points[key], default=-1)
    if checkpoint == "model_final.pth":
        return max(points, default=-1)
    numbered = re.fullmatch(r"model_(\d+)\.pth", checkpoint)
    return -1 if numbered is None else int(numbered[1])
