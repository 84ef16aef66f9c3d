"""Losses of a training step."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detectron2.config import instantiate
from torch import Tensor, nn

from deim.errors import ConfigError
from deim.modeling.losses.assignment import assign
from deim.modeling.losses.former_arguments import FORMER_ARGUMENTS, translate_former_arguments
from deim.modeling.losses.group_loss import GroupLoss, GroupLossInputs
from deim.modeling.losses.matched_boxes import compare_matched_boxes
from deim.modeling.losses.matched_masks import MaskPointSampler
from deim.modeling.losses.quality import BoxIoUQuality, MatchQuality
from deim.modeling.losses.supervision import Supervision
from deim.modeling.matching import HungarianMatcher
from deim.modeling.queries.denoising import DenoisingGroups
from deim.structures.predictions import Predictions, Targets

logger = logging.getLogger("detectron2.deim")


class Criterion(nn.Module):
    """Weighted losses of a decoder's predictions.

    Every loss is computed for all layers of a group at once. The names of the returned losses are the keys of ``losses``
    with the suffixes of ``supervision``. In the recipes, they follow D-FINE and DEIM: ``loss_bbox``,
    ``loss_bbox_aux_0``, ``loss_bbox_pre``, ``loss_bbox_enc_0``, ``loss_bbox_dn_0``, ``loss_bbox_dn_pre`` and so on.

    Args:
        num_classes: number of classes K.
        supervision: groups of predictions and their training settings. The first group also determines the balance of
            the distillation losses; see :class:`GroupLossInputs`.
        matcher: one-to-one matcher for all groups but the denoising groups.
        losses: {name: loss}, in the order of computation. Nodes of a config are instantiated, and None disables a loss.
        use_union: use the union of the matches of all layers for localization losses (GO-LSD).
        mask_sampler: points at which masks are compared; by default :class:`MaskPointSampler` with its default values.
        quality: quality of the matches, the target of the classification losses; by default the IoU of the boxes.
        former_arguments: ``classification``, ``weights``, ``alpha``, ``gamma`` and ``temperature``, the deprecated
            alternative to ``losses``; see :mod:`deim.modeling.losses.former_arguments`.

    Attributes:
        losses: {name: loss}.
        epoch: epoch of the training, from 0, which the matcher may depend on. The trainer sets it; see
            :class:`deim.engine.hooks.criterion_epoch.CriterionEpochHook`. It is not part of the state.

    Raises:
        TypeError: if an argument is unknown, or former arguments are combined with losses that are not config nodes.
        ValueError: if a loss cannot be built, has no weight, or has another number of class weights than there are
            classes.
    """

    def __init__(
        self,
        num_classes: int,
        supervision: Sequence[Supervision],
        matcher: HungarianMatcher | None = None,
        losses: Mapping[str, GroupLoss | Any] | None = None,
        use_union: bool = True,
        mask_sampler: MaskPointSampler | None = None,
        quality: MatchQuality | None = None,
        **former_arguments: Any,
    ):
        super().__init__()
        unknown_arguments = [name for name in former_arguments if name not in FORMER_ARGUMENTS]
        if unknown_arguments:
            raise TypeError(f"Criterion has no arguments {', '.join(unknown_arguments)}")
        if former_arguments:
            logger.warning(
                f"The arguments {', '.join(former_arguments)} of Criterion are deprecated: list the losses in `losses`"
            )
            arguments = {"losses": losses, **former_arguments}
            translate_former_arguments(arguments)
            losses = arguments["losses"]
        self.losses = {name: _build_loss(name, loss) for name, loss in (losses or {}).items() if loss is not None}
        _check_class_weights(self.losses, num_classes)
        # Registers the parameters and buffers of losses that have any.
        self.loss_modules = nn.ModuleDict({k: loss for k, loss in self.losses.items() if isinstance(loss, nn.Module)})
        self.num_classes, self.matcher = num_classes, matcher or HungarianMatcher()
        self.use_union, self.mask_sampler = use_union, mask_sampler or MaskPointSampler()
        self.quality = quality or BoxIoUQuality()
        self.supervision = tuple(supervision)
        self.epoch = 0

    def forward(
        self, groups: Mapping[str, Predictions], targets: Targets, denoising: DenoisingGroups | None = None
    ) -> dict[str, Tensor]:
        """Compute the weighted losses.

        Args:
            groups: predictions of each group. Every supervised group is required, the denoising groups only if there
                are denoising queries. Groups without supervision are ignored.
            targets: ground truth of the batch.
            denoising: queries of the denoising groups.

        Returns:
            {name: () weighted loss}, to be summed.

        Raises:
            ConfigError: if a supervised group is missing.
        """
        terms: dict[str, Tensor] = {}
        for group, layers, losses in self._losses(groups, targets, denoising, self.supervision):
            for name, values in losses.items():
                terms.update(group.layer_losses(name, values * (self.losses[name].weight * group.weight), layers))
        return terms

    def terms(
        self,
        groups: Mapping[str, Predictions],
        targets: Targets,
        denoising: DenoisingGroups | None = None,
        supervision: Sequence[Supervision] | None = None,
    ) -> dict[str, tuple[Tensor, float]]:
        """Compute the losses as :meth:`forward` does, but return {name: (unweighted loss, weight)}.

        Args:
            groups, targets, denoising: see :meth:`forward`.
            supervision: used instead of the criterion's own.
        """
        terms: dict[str, tuple[Tensor, float]] = {}
        for group, layers, losses in self._losses(groups, targets, denoising, supervision or self.supervision):
            for name, values in losses.items():
                weight = self.losses[name].weight * group.weight
                named = group.layer_losses(name, values, layers)
                terms.update({full_name: (value, weight) for full_name, value in named.items()})
        return terms

    def _losses(
        self,
        groups: Mapping[str, Predictions],
        targets: Targets,
        denoising: DenoisingGroups | None,
        supervision: Sequence[Supervision],
    ) -> Iterator[tuple[Supervision, int, dict[str, Tensor]]]:
        """Yield (supervision, number of layers L, {name: (N,) losses of the first N layers}) for each group."""
        active = [s for s in supervision if denoising is not None or not s.denoising]
        missing = [s.group for s in active if s.group not in groups]
        if missing:
            raise ConfigError(
                f"criterion.supervision names {', '.join(missing)}, but the decoder predicts only {', '.join(groups)}: "
                "remove these groups, or add the part of the decoder that predicts them"
            )
        predictions = [groups[s.group].in_full_precision() for s in active]
        assignments = assign(active, predictions, targets, denoising, self.matcher, self.use_union, self.epoch)
        boxes = [prediction.boxes for prediction in predictions]
        matched_boxes = compare_matched_boxes(boxes, [a.localization for a in assignments], targets.boxes)
        qualities = self.quality(predictions, [a.classification for a in assignments], targets)
        # D-FINE's code also multiplies both counts by 8 / (number of images), which cancels out in the weighted mean.
        # As in D-FINE's code, the counts of the first group balance the distillation of all groups.
        balance = (assignments[0].num_matched.sqrt(), assignments[0].num_unmatched.sqrt())
        for group, prediction, assignment, matched, quality in zip(
            active, predictions, assignments, matched_boxes, qualities, strict=True
        ):
            inputs = GroupLossInputs(
                group.group,
                prediction,
                group.targets(targets),
                assignment,
                matched,
                quality,
                balance,
                self.mask_sampler,
                group.class_agnostic,
            )
            values = {name: loss(inputs) for name, loss in self.losses.items()}
            yield group, len(prediction.boxes), {k: value for k, value in values.items() if value is not None}


def criteria(model: nn.Module) -> list[Criterion]:
    """Return the criteria that a model contains at any place, for example inside DistributedDataParallel."""
    return [module for module in model.modules() if isinstance(module, Criterion)]


def _build_loss(name: str, loss: Any) -> GroupLoss:
    """Instantiate the node of a loss; a loss is returned unchanged.

    Raises:
        ValueError: if the loss cannot be built, or has no weight; names the loss.
    """
    try:
        loss_object = instantiate(loss)
    except (TypeError, ValueError) as error:
        raise ValueError(f"losses.{name}: {error}") from error
    if not callable(loss_object) or not hasattr(loss_object, "weight"):
        raise ValueError(
            f"losses.{name}: {loss_object!r} is not a loss: a loss has the attribute `weight` and is called with GroupLossInputs"
        )
    return loss_object


def _check_class_weights(losses: Mapping[str, GroupLoss], num_classes: int) -> None:
    """Compare the number of class weights of each loss with the number of classes.

    Raises:
        ValueError: if they differ.
    """
    for name, loss in losses.items():
        weights = getattr(loss, "class_weights", None)
        if weights is not None and len(weights) != num_classes:
            raise ValueError(f"losses.{name}.class_weights has {len(weights)} numbers for {num_classes} classes")
