"""Masks and keypoints that a recipe trains on, and that its datasets read."""

import inspect
import logging
from collections.abc import Iterator
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf

from deim.data.datasets.keypoints import KeypointDefinition
from deim.structures.keypoints import COCO_SIGMAS, DEFAULT_SIGMA

logger = logging.getLogger("detectron2.deim")


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


def fit_keypoints(cfg: Any, keypoints: KeypointDefinition) -> None:
    """Set the number of keypoints that the model of a recipe predicts, in place.

    Constants of the OKS that the recipe has for another number of keypoints are removed from the losses, the matching and
    the evaluation, so that the defaults of :func:`deim.structures.keypoints.oks_sigmas` apply.
    """
    node, count = keypoint_node(cfg.model), len(keypoints.names)
    if node is None:
        return
    node.num_keypoints = count
    removed = [*_remove_constants(cfg.model, "sigmas", count)]
    removed += _remove_constants(cfg.dataloader.get("evaluator"), "kpt_oks_sigmas", count)
    if removed:
        defaults = "those of COCO's person" if count == len(COCO_SIGMAS) else f"{DEFAULT_SIGMA:g} for each"
        logger.warning(
            f"The recipe has OKS constants for {removed[0]} keypoints, but the dataset has {count} keypoints: using "
            f"{defaults}; set model.criterion.quality.sigmas or model.criterion.losses.loss_oks.sigmas for other values"
        )


def _remove_constants(node: Any, key: str, count: int) -> Iterator[int]:
    """Set the lists under a key of a config node, at any depth, to None if their length is not ``count``; yield their
    lengths."""
    if not isinstance(node, DictConfig | ListConfig):
        return
    for name in list(node) if isinstance(node, DictConfig) else range(len(node)):
        if OmegaConf.is_interpolation(node, name):
            continue
        child = node[name]
        if name == key and isinstance(child, ListConfig):
            if len(child) not in (0, count):
                yield len(child)
                node[name] = None
        else:
            yield from _remove_constants(child, key, count)


def keypoint_node(model: Any) -> Any:
    """Return the node of a model config with the argument ``num_keypoints``; None if the model predicts no keypoints."""
    for path in ("decoder.heads.keypoints", "decoder.queries"):  # the latter in a decoder for poses
        node = None if model is None else OmegaConf.select(model, path)
        if node is not None and "num_keypoints" in node:
            return node
    return None
