"""Parts of the methods that a recipe can have or not, each by a line.

In a recipe, the functions ``with_...`` and ``without_...`` change its ``model`` or ``dataloader``; for a whole
config there is :func:`switch`. All change in place, and expect a ``decoder`` that is a
:class:`deim.modeling.Decoder` and a ``criterion`` that is a :class:`deim.modeling.Criterion`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from detectron2.config import LazyCall
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from deim.data.mixup import Mixup
from deim.data.mosaic import Mosaic
from deim.errors import ConfigError
from deim.modeling.decoder import BoxPosition, DistributionRefinement, IterativeRefinement
from deim.modeling.losses import Supervision
from deim.modeling.queries import ContrastiveDenoising, LearnedQueries

# A group of predictions -> the one of the boxes that FDR starts from, and what its loss names end with.
_INITIAL = {
    "main": ("initial", "_pre"),
    "denoising": ("denoising_initial", "_dn_pre"),
    "hybrid": ("hybrid_initial", "_o2m_pre"),
}

# What a refinement takes over from the rest of its decoder.
_SIZES = {
    "dim": "${..layer.dim}",
    "num_classes": "${...num_classes}",
    "num_layers": "${..num_layers}",
    "activation": "${..layer.activation}",
}


def with_deim_loss(model: Any) -> Any:
    """The matchability-aware loss (MAL) as classification loss (DEIM, section 3.3)."""
    return _with_classification(model, "mal", alpha=None, gamma=1.5)


def without_deim_loss(model: Any) -> Any:
    """The varifocal loss as classification loss, as in RT-DETR and D-FINE."""
    return _with_classification(model, "vfl", alpha=0.75, gamma=2.0)


def _with_classification(model: Any, name: str, alpha: float | None, gamma: float) -> Any:
    criterion = model.criterion
    former = f"loss_{criterion.classification}"
    criterion.weights = {f"loss_{name}": 1.0, **{k: v for k, v in criterion.weights.items() if k != former}}
    criterion.classification = name
    criterion.alpha, criterion.gamma = alpha, gamma
    return model


def with_dense_o2o(dataloader: Any) -> Any:
    """Mosaic and mixup in the training data, in the schedule's ``dense_epochs`` (DEIM, section 3.2).

    Args:
        dataloader: a config whose ``train.mapper`` is a :class:`deim.data.staged.StagedMapper`.
    """
    dataloader.train.mapper.mosaic = LazyCall(Mosaic)(
        tile_size=min(dataloader.image_size) // 2, degrees=10.0, translate=0.1, scale=(0.5, 1.5), fill=0
    )
    dataloader.train.mixup = LazyCall(Mixup)(prob=0.5, ratio=(0.45, 0.55))
    return dataloader


def without_dense_o2o(dataloader: Any) -> Any:
    """Single images in all epochs."""
    dataloader.train.mapper.mosaic = dataloader.train.mixup = None
    return dataloader


def with_fdr(model: Any) -> Any:
    """Fine-grained distribution refinement and its self-distillation (D-FINE, section 4)."""
    model.decoder.refinement = LazyCall(DistributionRefinement)(**_SIZES, reg_max=32, reg_scale=4.0)
    criterion = model.criterion
    criterion.weights = {**criterion.weights, "loss_fgl": 0.15, "loss_ddf": 1.5}
    criterion.use_union = True
    criterion.supervision = [*criterion.supervision, *map(_initial_of, _located(criterion))]
    return model


def without_fdr(model: Any) -> Any:
    """Boxes that every layer corrects, looking forward twice, as in RT-DETR."""
    model.decoder.refinement = LazyCall(IterativeRefinement)(**_SIZES, look_forward_twice=True)
    criterion = model.criterion
    criterion.weights = {k: v for k, v in criterion.weights.items() if k not in ("loss_fgl", "loss_ddf")}
    criterion.use_union = False
    initial = {group for group, _ in _INITIAL.values()}
    criterion.supervision = [one for one in criterion.supervision if one.group not in initial]
    return model


def _located(criterion: Any) -> list[Any]:
    """The supervisions whose boxes are refined."""
    return [one for one in criterion.supervision if one.group in _INITIAL]


def _supervise(criterion: Any, supervision: Any) -> None:
    """One more supervision, and that of the boxes that FDR starts from, if it is on."""
    refined = any(one.group == "initial" for one in criterion.supervision)
    also = [_initial_of(supervision)] if refined else []
    criterion.supervision = [*criterion.supervision, supervision, *also]


def _initial_of(supervision: Any) -> Any:
    """How the boxes are supervised that the refinement of a group starts from."""
    group, suffix = _INITIAL[supervision.group]
    return OmegaConf.merge(supervision, {"group": group, "suffix": suffix, "last_suffix": None})


def with_hybrid_branch(model: Any, num_queries: int = 1500, repeats: int = 6, weight: float = 1.0) -> Any:
    """More queries in training, each object matched to several of them (H-DETR, arXiv 2207.13080, section
    3.2); evaluation and deployment are without them.

    Args:
        num_queries: of the branch; fewer where an image has not so many tokens.
        repeats: how many queries each object is matched to.
        weight: of the branch's losses.
    """
    model.decoder.queries.num_one_to_many = num_queries
    branch = LazyCall(Supervision)(group="hybrid", suffix="_o2m_{}", last_suffix="_o2m", repeats=repeats, weight=weight)
    _supervise(model.criterion, branch)
    return model


def without_hybrid_branch(model: Any) -> Any:
    """One-to-one matching alone."""
    model.decoder.queries.num_one_to_many = 0
    criterion = model.criterion
    criterion.supervision = [one for one in criterion.supervision if not one.group.startswith("hybrid")]
    return model


def with_denoising(model: Any) -> Any:
    """Contrastive denoising queries (DINO, arXiv 2203.03605, section 3.3), beside queries that begin as boxes."""
    model.decoder.denoising = LazyCall(ContrastiveDenoising)(
        dim="${..layer.dim}",
        num_classes="${...num_classes}",
        num_queries=100,
        label_noise_ratio=0.5,
        box_noise_scale=1.0,
    )
    criterion = model.criterion
    if not any(one.get("denoising") for one in criterion.supervision):
        _supervise(criterion, LazyCall(Supervision)(group="denoising", suffix="_dn_{}", denoising=True))
    return model


def without_denoising(model: Any) -> Any:
    """No denoising queries."""
    model.decoder.denoising = None
    criterion = model.criterion
    criterion.supervision = [one for one in criterion.supervision if not one.get("denoising")]
    return model


def with_learned_queries(model: Any) -> Any:
    """Queries that are learned and the same for every image, in place of selected encoder tokens."""
    former = model.decoder.queries
    model.decoder.queries = LazyCall(LearnedQueries)(
        dim="${..layer.dim}", num_queries=former.num_queries, num_one_to_many=former.get("num_one_to_many", 0)
    )
    if model.decoder.position is None:
        model.decoder.position = LazyCall(BoxPosition)(dim="${..layer.dim}")
    model.criterion.supervision = [one for one in model.criterion.supervision if one.group != "encoder"]
    return model


@dataclass(frozen=True)
class Switch:
    """A part that a config has or not."""

    is_on: Callable[[Any], bool]
    turn_on: Callable[[Any], Any]
    turn_off: Callable[[Any], Any]


def _dense_on(cfg: Any) -> None:
    with_dense_o2o(cfg.dataloader)
    schedule = cfg.schedule
    if not any(schedule.get("dense_epochs", ())):
        # As in DEIM's recipes: from the fifth epoch on, for half of the epochs with augmentation.
        start = min(4, schedule.epochs // 4)
        schedule.dense_epochs = [start, start + (schedule.epochs - schedule.no_aug_epochs) // 2]


def _has_dense(cfg: Any) -> bool:
    train = cfg.dataloader.train
    augmented = train.mapper.get("mosaic") is not None or train.get("mixup") is not None
    return augmented and any(cfg.schedule.get("dense_epochs", ()))


SWITCHES = {
    "dense_o2o": Switch(_has_dense, _dense_on, lambda cfg: without_dense_o2o(cfg.dataloader)),
    "mal": Switch(
        lambda cfg: cfg.model.criterion.classification == "mal",
        lambda cfg: with_deim_loss(cfg.model),
        lambda cfg: without_deim_loss(cfg.model),
    ),
    "fdr": Switch(
        lambda cfg: any(one.group == "initial" for one in cfg.model.criterion.supervision),
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
}


def is_on(cfg: Any, name: str) -> bool:
    """Whether a config has a part of :data:`SWITCHES`.

    Raises:
        ConfigError: there is no such switch, or the config is not made of parts that it knows.
    """
    if name not in SWITCHES:
        raise ConfigError(f"there is no switch {name!r}; there are {', '.join(SWITCHES)}")
    try:
        return SWITCHES[name].is_on(cfg)
    except (AttributeError, OmegaConfBaseException) as error:
        raise ConfigError(f"{name} cannot be switched in this config: {str(error).splitlines()[0]}") from error


def switch(cfg: Any, **states: bool) -> Any:
    """Give a config parts of :data:`SWITCHES`, or take them away; what is as wanted already stays untouched.

    Args:
        cfg: a whole config; changed in place.
        states: {name of a switch: on or off}.

    Raises:
        ConfigError: see :func:`is_on`.
    """
    for name, wanted in states.items():
        if is_on(cfg, name) != wanted:
            (SWITCHES[name].turn_on if wanted else SWITCHES[name].turn_off)(cfg)
    return cfg
