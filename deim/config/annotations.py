"""Masks and keypoints that a recipe trains on, and that its datasets read."""

import inspect
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import OmegaConf

from deim.data.datasets.keypoints import KeypointDefinition


def trained_annotations(cfg: Any) -> list[str]:
    """Return what a recipe trains on beside boxes: "masks", "keypoints", both or nothing.

    A recipe states it by the arguments ``masks`` and ``keypoints`` of its training dataset or of the mapper.
    """
    train = cfg.dataloader.train
    nodes = [node for node in (train.get("dataset"), train.get("mapper")) if hasattr(node, "get")]
    return [kind for kind in ("masks", "keypoints") if any(node.get(kind) for node in nodes)]


def can_read(dataset: Any, kind: str) -> bool:
    """Return whether the reader of a ``dataset`` node of a config has the argument "masks" or "keypoints"."""
    target = dataset.get("_target_")
    reader = locate(target) if isinstance(target, str) else target
    return callable(reader) and kind in inspect.signature(reader).parameters


def request_annotations(dataloader: Any, kind: str, is_requested: bool = True) -> None:
    """Set whether the readers of the training and the evaluation dataset read and check masks or keypoints, in place.

    Readers that have no masks or keypoints are not changed.

    Args:
        dataloader: the node of a recipe.
        kind: "masks" or "keypoints".
        is_requested: whether to read them.
    """
    for split in ("train", "test"):
        dataset = dataloader[split].get("dataset")
        if not hasattr(dataset, "get"):
            continue
        reader = dataset.get("dataset") or dataset  # of a holdout split
        if can_read(reader, kind) and (is_requested or kind in reader):
            reader[kind] = is_requested


def fit_keypoint_head(model: Any, keypoints: KeypointDefinition) -> None:
    """Set the number of keypoints that the model of a recipe predicts, in place."""
    node = keypoint_node(model)
    if node is not None:
        node.num_keypoints = len(keypoints.names)


def keypoint_node(model: Any) -> Any:
    """Return the node of a model config with the argument ``num_keypoints``; None if the model predicts no keypoints."""
    for path in ("decoder.heads.keypoints", "decoder.queries"):  # the latter in a decoder for poses
        node = None if model is None else OmegaConf.select(model, path)
        if node is not None and "num_keypoints" in node:
            return node
    return None
