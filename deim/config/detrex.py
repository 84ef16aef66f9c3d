"""DEIM's criterion for detrex models."""

from typing import Any

import torch
from detectron2.config import LazyCall, instantiate
from torch import Tensor

from deim.errors import ConfigError
from deim.modeling.losses import DetrexCriterion
from deim.modeling.matching import HungarianMatcher, MatchingCost

_LOSSES = ("loss_class", "loss_bbox", "loss_giou")
# Weights of the matching costs: name in detrex -> name in this project.
_COSTS = {"cost_class": "class_weight", "cost_bbox": "bbox_weight", "cost_giou": "giou_weight"}


def with_deim_criterion(model: Any, classification: str = "mal", class_agnostic_proposals: bool | None = None) -> Any:
    """Replace the criterion of a detrex model by :class:`deim.modeling.DetrexCriterion`, in place.

    The weights of the box losses and of the matching costs are kept.

    Args:
        model: the ``model`` node of a detrex config. Its ``criterion`` has a ``weight_dict`` and a ``matcher``.
        classification: "mal", "vfl" or "focal". The weight of "mal" and "vfl" becomes 1. "focal" keeps the weight and
            the parameters of the model's classification loss.
        class_agnostic_proposals: True if only the first logit of the encoder proposals is trained, for objects of any
            class (Deformable DETR); False if each class is trained (DINO). None detects it from the model's criterion.

    Returns:
        ``model``.

    Raises:
        ConfigError: if ``criterion`` is not a detrex criterion or has a softmax over the classes, or if
            ``class_agnostic_proposals`` is None and cannot be detected.
    """
    former = model.criterion
    missing = [name for name in _LOSSES if name not in former.get("weight_dict", ())]
    if missing or "matcher" not in former:
        raise ConfigError(
            f"model.criterion is {_name(former)}, which has no matcher or no weight_dict with {', '.join(_LOSSES)}: "
            "with_deim_criterion supports box detectors of detrex; use with_deim_loss for models of this project"
        )
    if former.get("loss_class_type") == "ce_loss":
        raise ConfigError(
            f"model.criterion is {_name(former)} with a softmax over the classes and a no-object class "
            "(DETR, PnP-DETR): with_deim_criterion supports only models with sigmoid scores"
        )
    if class_agnostic_proposals is None:
        class_agnostic_proposals = proposals_are_class_agnostic(model)
    weights = {name: former.weight_dict[name] for name in _LOSSES}
    if classification != "focal":
        weights["loss_class"] = 1.0
    options = {name: former.get(name) for name in ("alpha", "gamma")} if classification == "focal" else {}
    model.criterion = LazyCall(DetrexCriterion)(
        num_classes="${..num_classes}" if "num_classes" in model else former.num_classes,
        classification=classification,
        weight_dict=weights,
        matcher=_matcher(former.matcher),
        two_stage_binary_cls=class_agnostic_proposals,
        group_nums="${..group_nums}" if "group_nums" in model else 1,
        **options,
    )
    return model


def _matcher(matcher: Any) -> Any:
    """Return the config node of a matcher with the cost weights of a detrex matcher."""
    costs = {ours: matcher[theirs] for theirs, ours in _COSTS.items() if theirs in matcher}
    costs |= {name: matcher[name] for name in ("alpha", "gamma") if name in matcher}
    return LazyCall(HungarianMatcher)(cost=LazyCall(MatchingCost)(**costs))


def proposals_are_class_agnostic(model: Any) -> bool:
    """Return True if the encoder proposals of a detrex model are trained without regard to class.

    Criteria derived from DINO's have the attribute ``two_stage_binary_cls``. Those of Deformable DETR,
    H-Deformable-DETR and DETA always train class-agnostic proposals and have no such attribute. For them the criterion
    is called, and the labels that it passes to the proposal loss are inspected.

    Args:
        model: the ``model`` node of a config.

    Raises:
        ConfigError: if the model has two stages and its criterion cannot be called.
    """
    criterion = instantiate(model.criterion)
    declared = getattr(criterion, "two_stage_binary_cls", None)
    if declared is not None:
        return bool(declared)
    labels, failure = _labels_of_proposals(criterion)
    if labels is None and failure is not None and _has_two_stages(model):
        raise ConfigError(
            f"cannot detect whether {_name(model.criterion)} trains class-agnostic encoder proposals ({failure}): "
            "pass class_agnostic_proposals=True or False to with_deim_criterion"
        )
    return labels is not None and bool((labels == 0).all())


def _labels_of_proposals(criterion: Any) -> tuple[Tensor | None, Exception | None]:
    """Call a criterion on objects of class 1. Return its training labels of encoder proposals, and its exception.

    The labels are None if the criterion does not train proposals, or fails before it does. The exception is None if the
    call succeeds.
    """
    num_boxes = 32  # DETA's assigners need several candidates per object
    boxes = torch.linspace(0.2, 0.8, num_boxes)[None, :, None].repeat(1, 1, 4)
    predicted = {"pred_logits": torch.zeros(1, num_boxes, criterion.num_classes), "pred_boxes": boxes}
    # DETA also assigns by the initial boxes of proposals and queries
    proposals = {**predicted, "anchors": boxes}
    proposal_labels: list[Tensor] = []
    compute = criterion.get_loss

    def get_loss_and_record_labels(loss: str, outputs: Any, targets: Any, *args: Any, **kwargs: Any) -> Any:
        if outputs is proposals:
            proposal_labels.append(torch.cat([target["labels"] for target in targets]))
        return compute(loss, outputs, targets, *args, **kwargs)

    criterion.get_loss = get_loss_and_record_labels
    targets = [{"labels": torch.ones(2, dtype=torch.int64), "boxes": boxes[0, [0, -1]]}]
    failure = None
    try:
        criterion({**predicted, "init_reference": boxes, "enc_outputs": proposals}, targets)
    except Exception as error:  # some criteria need a GPU for losses that are not inspected here
        failure = error
    return (proposal_labels[0] if proposal_labels else None), failure


def _has_two_stages(model: Any) -> bool:
    """Return True if the queries come from encoder proposals."""
    nodes = [model, model.get("transformer") or {}]
    values = [node[key] for node in nodes for key in node if "two_stage" in key]
    flags = [value for value in values if isinstance(value, bool)]
    # Models that can be built with one stage have a flag. The others have only settings, such as the number of proposals.
    return any(flags) if flags else bool(values)


def _name(node: Any) -> str:
    target = node.get("_target_", "node")
    return getattr(target, "__name__", str(target))
