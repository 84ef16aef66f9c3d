"""Switches that add a component of a method to a recipe, or remove the component.

In a recipe, the functions ``with_...`` and ``without_...`` modify its ``model`` or ``dataloader``; :func:`switch`
modifies a complete config. All of them work in place. The functions that modify a model require that its ``decoder`` is
a :class:`deim.modeling.Decoder` and its ``criterion`` a :class:`deim.modeling.Criterion`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from detectron2.config import LazyCall
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from deim.config.former_keys import replace_former_loss_keys
from deim.config.keypoints import (
    has_keypoints,
    has_pose_decoder,
    use_coco_persons,
    with_keypoint_data,
    with_keypoints,
    without_keypoint_data,
    without_keypoints,
)
from deim.config.masks import has_masks, with_mask_data, with_masks, without_mask_data, without_masks
from deim.data.copy_blend import CopyBlend
from deim.data.mixup import Mixup
from deim.data.mosaic import Mosaic
from deim.errors import ConfigError
from deim.modeling.decoder import BoxPosition, DistributionRefinement, IterativeRefinement
from deim.modeling.losses import (
    DistillationLoss,
    FineGrainedLocalizationLoss,
    MatchabilityAwareLoss,
    Supervision,
    VarifocalLoss,
)
from deim.modeling.losses.classification import CLASSIFICATION_LOSSES
from deim.modeling.queries import ContrastiveDenoising, LearnedQueries
from deim.structures import PredictionGroup

# Group of the initial boxes of FDR -> suffix of its loss names.
_INITIAL_SUFFIXES = {
    PredictionGroup.INITIAL: "_pre",
    PredictionGroup.DENOISING_INITIAL: "_dn_pre",
    PredictionGroup.HYBRID_INITIAL: "_o2m_pre",
}

# Arguments of a refinement, interpolated from the rest of the decoder.
_REFINEMENT_ARGUMENTS = {
    "dim": "${..layer.dim}",
    "num_classes": "${...num_classes}",
    "num_layers": "${..num_layers}",
    "activation": "${..layer.activation}",
}


def with_deim_loss(model: Any) -> Any:
    """Use the matchability-aware loss (MAL) for classification (DEIM, section 3.3)."""
    return _with_classification(model, "loss_mal", LazyCall(MatchabilityAwareLoss)(weight=1.0, gamma=1.5))


def without_deim_loss(model: Any) -> Any:
    """Use the varifocal loss for classification, as in RT-DETR and D-FINE."""
    return _with_classification(model, "loss_vfl", LazyCall(VarifocalLoss)(weight=1.0, alpha=0.75, gamma=2.0))


def _with_classification(model: Any, name: str, loss: Any) -> Any:
    """Replace the classification loss of this project that a model has, if any, by ``loss``."""
    replaced = [f"loss_{classification}" for classification in CLASSIFICATION_LOSSES]
    model.criterion.losses = {name: loss, **_losses_without(model.criterion, *replaced)}
    return model


def _losses_without(criterion: Any, *names: str) -> dict[str, Any]:
    """Return the losses of a criterion except those with the given names."""
    replace_former_loss_keys(criterion)
    return {name: loss for name, loss in criterion.losses.items() if name not in names}


def with_dense_o2o(dataloader: Any, copy_blend: bool = False) -> Any:
    """Add mosaic and mixup to the training data, during ``dense_epochs`` of the schedule (DEIM, section 3.2).

    Args:
        dataloader: the node of a recipe; its ``train.mapper`` must be a :class:`deim.data.staged.StagedMapper`.
        copy_blend: add copy-blend as an alternative to mixup, from the first dense epoch until the final stage
            (DEIMv2, arXiv 2509.20787).
    """
    dataloader.train.mapper.mosaic = LazyCall(Mosaic)(
        tile_size=min(dataloader.image_size) // 2, degrees=10.0, translate=0.1, scale=(0.5, 1.5), fill=0
    )
    dataloader.train.mixup = LazyCall(Mixup)(prob=0.5, ratio=(0.45, 0.55))
    if copy_blend:
        dataloader.train.batch_operations = [
            LazyCall(CopyBlend)(
                prob=0.5,
                ratio=(0.45, 0.55),
                epochs=["${schedule.dense_epochs.0}", None],
                min_area=100.0,
                num_objects=3,
                expand_ratio=(0.1, 0.25),
            )
        ]
    return dataloader


def without_dense_o2o(dataloader: Any) -> Any:
    """Remove mosaic, mixup and the other batch operations from the training data."""
    dataloader.train.mapper.mosaic = dataloader.train.mixup = None
    dataloader.train.batch_operations = []
    return dataloader


def with_fdr(model: Any) -> Any:
    """Use fine-grained distribution refinement (FDR) and its self-distillation (D-FINE, section 4)."""
    model.decoder.refinement = LazyCall(DistributionRefinement)(**_REFINEMENT_ARGUMENTS, reg_max=32, reg_scale=4.0)
    criterion = model.criterion
    distribution_losses = {
        "loss_fgl": LazyCall(FineGrainedLocalizationLoss)(weight=0.15),
        "loss_ddf": LazyCall(DistillationLoss)(weight=1.5, temperature=5.0),
    }
    criterion.losses = {**_losses_without(criterion), **distribution_losses}
    criterion.use_union = True
    _remove_supervision(criterion, *_INITIAL_SUFFIXES)  # those of a model that has FDR already
    criterion.supervision = [*criterion.supervision, *_initial_supervisions(criterion.supervision)]
    return model


def without_fdr(model: Any) -> Any:
    """Use iterative box refinement with look forward twice, as in RT-DETR."""
    model.decoder.refinement = LazyCall(IterativeRefinement)(**_REFINEMENT_ARGUMENTS, look_forward_twice=True)
    criterion = model.criterion
    criterion.losses = _losses_without(criterion, "loss_fgl", "loss_ddf")
    criterion.use_union = False
    _remove_supervision(criterion, *_INITIAL_SUFFIXES)
    return model


def _has_supervision(criterion: Any, group: PredictionGroup) -> bool:
    return any(PredictionGroup(supervision.group) is group for supervision in criterion.supervision)


def _add_supervision(criterion: Any, supervision: Any) -> None:
    """Add a supervision and, if FDR is on, the supervision of its initial boxes."""
    is_refined = _has_supervision(criterion, PredictionGroup.INITIAL)
    initial = _initial_supervisions([supervision]) if is_refined else []
    criterion.supervision = [*criterion.supervision, supervision, *initial]


def _remove_supervision(criterion: Any, *groups: PredictionGroup) -> None:
    criterion.supervision = [
        supervision for supervision in criterion.supervision if PredictionGroup(supervision.group) not in groups
    ]


def _initial_supervisions(supervisions: Iterable[Any]) -> list[Any]:
    """Return the supervisions of the initial boxes of those groups whose boxes FDR refines."""
    initial = [(supervision, PredictionGroup(supervision.group).initial) for supervision in supervisions]
    return [
        OmegaConf.merge(supervision, {"group": group.value, "suffix": _INITIAL_SUFFIXES[group], "last_suffix": None})
        for supervision, group in initial
        if group is not None
    ]


def with_hybrid_branch(model: Any, num_queries: int = 1500, repeats: int = 6, weight: float = 1.0) -> Any:
    """Add a one-to-many branch to training (H-DETR, arXiv 2207.13080, section 3.2).

    Each object is matched to several of the additional queries. Evaluation and deployment do not use them.

    Args:
        model: the node of a recipe.
        num_queries: number of queries of the branch, at most the number of tokens of an image.
        repeats: number of queries that each object is matched to.
        weight: weight of the branch's losses.
    """
    without_hybrid_branch(model)  # removes the supervision of an earlier branch
    model.decoder.queries.num_one_to_many = num_queries
    branch = LazyCall(Supervision)(group="hybrid", suffix="_o2m_{}", last_suffix="_o2m", repeats=repeats, weight=weight)
    _add_supervision(model.criterion, branch)
    return model


def without_hybrid_branch(model: Any) -> Any:
    """Remove the one-to-many branch, so that matching is one-to-one only."""
    model.decoder.queries.num_one_to_many = 0
    _remove_supervision(model.criterion, PredictionGroup.HYBRID, PredictionGroup.HYBRID_INITIAL)
    return model


def with_denoising(model: Any) -> Any:
    """Add contrastive denoising queries (DINO, arXiv 2203.03605, section 3.3), for decoders whose queries are boxes."""
    model.decoder.denoising = LazyCall(ContrastiveDenoising)(
        dim="${..layer.dim}",
        num_classes="${...num_classes}",
        num_queries=100,
        label_noise_ratio=0.5,
        box_noise_scale=1.0,
    )
    criterion = model.criterion
    if not any(group.get("denoising") for group in criterion.supervision):
        _add_supervision(criterion, LazyCall(Supervision)(group="denoising", suffix="_dn_{}", denoising=True))
    return model


def without_denoising(model: Any) -> Any:
    """Remove the denoising queries."""
    model.decoder.denoising = None
    criterion = model.criterion
    criterion.supervision = [group for group in criterion.supervision if not group.get("denoising")]
    return model


def with_learned_queries(model: Any) -> Any:
    """Use learned queries, the same for every image, instead of selected encoder tokens."""
    former = model.decoder.queries
    model.decoder.queries = LazyCall(LearnedQueries)(
        dim="${..layer.dim}", num_queries=former.num_queries, num_one_to_many=former.get("num_one_to_many", 0)
    )
    if model.decoder.position is None:
        model.decoder.position = LazyCall(BoxPosition)(dim="${..layer.dim}")
    _remove_supervision(model.criterion, PredictionGroup.ENCODER)
    return model


@dataclass(frozen=True)
class Switch:
    """A component that can be added to a config and removed from it."""

    is_on: Callable[[Any], bool]
    turn_on: Callable[[Any], Any]
    turn_off: Callable[[Any], Any]


def _turn_on_dense_o2o(cfg: Any) -> None:
    with_dense_o2o(cfg.dataloader)
    schedule = cfg.schedule
    if not any(schedule.get("dense_epochs") or ()):
        # As in DEIM's recipes: from the fifth epoch, for half of the epochs with augmentation.
        start = min(4, schedule.epochs // 4)
        schedule.dense_epochs = [start, start + (schedule.epochs - schedule.no_aug_epochs) // 2]


def _has_dense_o2o(cfg: Any) -> bool:
    train = cfg.dataloader.train
    operations = [train.mapper.get("mosaic"), train.get("mixup"), *(train.get("batch_operations") or ())]
    augmented = any(operation is not None for operation in operations)
    return augmented and any(cfg.schedule.get("dense_epochs") or ())


def _select_best_by(cfg: Any, metric: str) -> None:
    """Set the metric that selects ``model_best.pth``, if the config has training settings."""
    if "train" in cfg and "best_metric" in cfg.train:
        cfg.train.best_metric = metric


def _turn_on_masks(cfg: Any) -> None:
    with_masks(cfg.model)
    with_mask_data(cfg.dataloader)
    _select_best_by(cfg, "segm/AP")


def _turn_off_masks(cfg: Any) -> None:
    without_masks(cfg.model)
    without_mask_data(cfg.dataloader)
    _select_best_by(cfg, "bbox/AP")


def _turn_on_keypoints(cfg: Any) -> None:
    with_keypoints(cfg.model)
    with_keypoint_data(cfg.dataloader)
    use_coco_persons(cfg)
    _select_best_by(cfg, "keypoints/AP")


def _turn_off_keypoints(cfg: Any) -> None:
    without_keypoints(cfg.model)
    without_keypoint_data(cfg.dataloader)
    use_coco_persons(cfg, False)
    _select_best_by(cfg, "bbox/AP")


SWITCHES = {
    "dense_o2o": Switch(_has_dense_o2o, _turn_on_dense_o2o, lambda cfg: without_dense_o2o(cfg.dataloader)),
    "mal": Switch(
        lambda cfg: _losses_without(cfg.model.criterion).get("loss_mal") is not None,
        lambda cfg: with_deim_loss(cfg.model),
        lambda cfg: without_deim_loss(cfg.model),
    ),
    "fdr": Switch(
        lambda cfg: _has_supervision(cfg.model.criterion, PredictionGroup.INITIAL),
        lambda cfg: with_fdr(cfg.model),
        lambda cfg: without_fdr(cfg.model),
    ),
    "hybrid": Switch(
        lambda cfg: cfg.model.decoder.queries.get("num_one_to_many", 0) > 0,
        lambda cfg: with_hybrid_branch(cfg.model),
        lambda cfg: without_hybrid_branch(cfg.model),
    ),
    "denoising": Switch(
        lambda cfg: cfg.model.decoder.denoising is not None,
        lambda cfg: with_denoising(cfg.model),
        lambda cfg: without_denoising(cfg.model),
    ),
    "masks": Switch(lambda cfg: has_masks(cfg.model), _turn_on_masks, _turn_off_masks),
    "keypoints": Switch(lambda cfg: has_keypoints(cfg.model), _turn_on_keypoints, _turn_off_keypoints),
}


def is_on(cfg: Any, name: str) -> bool:
    """Return True if a config has the component ``name`` of :data:`SWITCHES`.

    Raises:
        ConfigError: if the switch does not exist, or does not apply to the components of the config.
    """
    if name not in SWITCHES:
        raise ConfigError(f"switch {name!r} does not exist; choose one of {', '.join(SWITCHES)}")
    try:
        return SWITCHES[name].is_on(cfg)
    except (AttributeError, OmegaConfBaseException) as error:
        raise ConfigError(f"{name} cannot be switched in this config: {str(error).splitlines()[0]}") from error


def switch(cfg: Any, **states: bool) -> Any:
    """Turn components of :data:`SWITCHES` on or off. Components already in the requested state are not modified.

    Args:
        cfg: a complete config, modified in place.
        states: {name of the switch: True for on, False for off}.

    Raises:
        ConfigError: see :func:`is_on`.
    """
    for name, enabled in states.items():
        if is_on(cfg, name) != enabled:
            _check_pose_decoder(cfg, name, enabled)
            (SWITCHES[name].turn_on if enabled else SWITCHES[name].turn_off)(cfg)
    return cfg


def _check_pose_decoder(cfg: Any, name: str, enabled: bool) -> None:
    """Raise ConfigError if a switch would replace a part of a decoder for poses by a part for boxes."""
    if has_pose_decoder(cfg.model) and (name in ("fdr", "masks", "keypoints") or (name == "denoising" and enabled)):
        raise ConfigError(
            f"{name} cannot be turned {'on' if enabled else 'off'}: the decoder of this config refines poses"
        )
