"""Keypoints as a component of a recipe."""

from collections.abc import Sequence
from typing import Any

from detectron2.config import LazyCall

from deim.config.annotations import request_annotations
from deim.config.heads import add_head, has_head, remove_head
from deim.modeling.decoder import KeypointHead
from deim.modeling.losses import KeypointL1Loss, KeypointOKSLoss
from deim.modeling.matching import KeypointCost

_COCO_KEYPOINTS = 17
# Only this version of COCO's annotations has keypoints, of persons.
_COCO_PERSONS = {name: f"keypoints_{name}" for name in ("coco_2017_train", "coco_2017_val")}
_COCO_CLASSES = 80


def has_keypoints(model: Any) -> bool:
    """Return True if the decoder of a model config predicts keypoints."""
    return has_head(model, "keypoints") or has_pose_decoder(model)


def has_pose_decoder(model: Any) -> bool:
    """Return True if the queries of a model config are poses instead of boxes; see :mod:`deim.modeling.decoder.pose`."""
    return "num_keypoints" in (model.decoder.get("queries") or {})


def with_keypoints(model: Any, num_keypoints: int = _COCO_KEYPOINTS, sigmas: Sequence[float] | None = None) -> Any:
    """Predict the keypoints of each object, and use them in the matching as well (weights of DETRPose,
    arXiv 2506.13027).

    Args:
        model: the node of a recipe.
        num_keypoints: number of keypoints of an object.
        sigmas: constants of the keypoints; see :func:`deim.structures.keypoints.oks_sigmas`.
    """
    sigmas = None if sigmas is None else list(sigmas)
    head = LazyCall(KeypointHead)(
        dim="${...layer.dim}",
        num_layers="${...num_layers}",
        num_keypoints=num_keypoints,
    )
    losses = {
        "loss_keypoints": LazyCall(KeypointL1Loss)(weight=10.0),
        "loss_oks": LazyCall(KeypointOKSLoss)(weight=4.0, sigmas=sigmas),
    }
    cost = LazyCall(KeypointCost)(l1_weight=10.0, oks_weight=4.0, sigmas="${....losses.loss_oks.sigmas}")
    add_head(model, "keypoints", head, losses, cost)
    return model


def without_keypoints(model: Any) -> Any:
    """Remove the keypoint head, its losses and its matching cost."""
    remove_head(model, "keypoints", ("loss_keypoints", "loss_oks"), KeypointCost)
    return model


def with_keypoint_data(dataloader: Any) -> Any:
    """Load the keypoints of the training objects; the readers of both datasets check the keypoints.

    The metadata of the dataset, or the categories of a COCO file, must define the keypoints.

    Args:
        dataloader: the node of a recipe.
    """
    dataloader.train.mapper.keypoints = True
    dataloader.train.mapper.dataset_name = "${dataloader.train.dataset.names}"
    request_annotations(dataloader, "keypoints")
    return dataloader


def use_coco_persons(cfg: Any, is_requested: bool = True) -> None:
    """Exchange COCO's annotations of 80 classes and of persons with keypoints in a complete config, in place.

    Configs with other datasets are not changed.

    Args:
        cfg: a recipe.
        is_requested: True selects the annotations of persons, False those of 80 classes.
    """
    names = _COCO_PERSONS if is_requested else {persons: name for name, persons in _COCO_PERSONS.items()}
    datasets = [cfg.dataloader[split].get("dataset") for split in ("train", "test")]
    if all(hasattr(dataset, "get") and dataset.get("names") in names for dataset in datasets):
        for dataset in datasets:
            dataset.names = names[dataset.names]
        cfg.model.num_classes = 1 if is_requested else _COCO_CLASSES


def without_keypoint_data(dataloader: Any) -> Any:
    """Load the training objects without keypoints."""
    dataloader.train.mapper.keypoints = False
    request_annotations(dataloader, "keypoints", False)
    return dataloader
