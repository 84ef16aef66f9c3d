"""Losses of a training step."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from deim.errors import ConfigError
from deim.modeling.losses import functional
from deim.modeling.losses.assignment import DeviceMatches, GroupAssignment, assign
from deim.modeling.losses.matched_boxes import MatchedBoxes, compare_matched_boxes, matched_ious
from deim.modeling.losses.supervision import Supervision
from deim.modeling.matching import HungarianMatcher
from deim.modeling.queries.denoising import DenoisingGroups
from deim.structures.distribution import bin_targets, boxes_to_offsets
from deim.structures.predictions import EdgeDistributions, Predictions, Targets

CLASSIFICATION_LOSSES: dict[str, Callable[..., Tensor]] = {
    "mal": functional.matchability_aware_loss,
    "vfl": functional.varifocal_loss,
    "focal": lambda logits, positive, quality, **options: functional.focal_loss(logits, positive, **options),
}


class Criterion(nn.Module):
    """Weighted losses of a decoder's predictions.

    Every loss is computed for all layers of a group at once. Names follow D-FINE and DEIM:
    ``loss_bbox``, ``loss_bbox_aux_0``, ``loss_bbox_pre``, ``loss_bbox_enc_0``, ``loss_bbox_dn_0``,
    ``loss_bbox_dn_pre`` and so on.

    Args:
        num_classes: number of classes K.
        supervision: groups of predictions and their training settings, in the order of the matching.
        matcher: one-to-one matcher for all groups but the denoising groups.
        classification: "mal", "vfl" or "focal".
        weights: {loss name without suffix: weight}; a loss without a weight is not computed.
        alpha, gamma: parameters of the classification loss; None uses the default of the loss.
        use_union: use the union of the matches of all layers for localization losses (GO-LSD).
        temperature: temperature of the distillation.

    Raises:
        ValueError: if a classification loss or loss name is unknown.
    """

    def __init__(
        self,
        num_classes: int,
        supervision: Sequence[Supervision],
        matcher: HungarianMatcher | None = None,
        classification: str = "mal",
        weights: Mapping[str, float] | None = None,
        alpha: float | None = None,
        gamma: float | None = None,
        use_union: bool = True,
        temperature: float = 5.0,
    ):
        super().__init__()
        if classification not in CLASSIFICATION_LOSSES:
            raise ValueError(
                f"Unknown classification loss {classification!r}; choose one of {', '.join(CLASSIFICATION_LOSSES)}"
            )
        known = [f"loss_{classification}", "loss_bbox", "loss_giou", "loss_fgl", "loss_ddf"]
        self.weights = dict(weights or {})
        unknown = sorted(set(self.weights) - set(known))
        if unknown:
            raise ValueError(
                f"criterion.weights: unknown losses {', '.join(unknown)}; with classification={classification!r}, choose "
                f"from {', '.join(known)}"
            )
        self.num_classes, self.matcher = num_classes, matcher or HungarianMatcher()
        self.classification = classification
        self.class_options = {k: v for k, v in (("alpha", alpha), ("gamma", gamma)) if v is not None}
        self.use_union, self.temperature = use_union, temperature
        self.supervision = tuple(supervision)

    def forward(
        self, groups: Mapping[str, Predictions], targets: Targets, denoising: DenoisingGroups | None = None
    ) -> dict[str, Tensor]:
        """Compute the weighted losses.

        Args:
            groups: named predictions. Every supervised group is required, the denoising groups only if there are
                denoising queries. Groups without supervision are ignored.
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
                terms.update(group.layer_losses(name, values * (self.weights[name] * group.weight), layers))
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
                weight = self.weights[name] * group.weight
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
        """Yield (supervision, number of layers L, {name: (L,) losses}) for each group.

        The distillation loss has L - 1 values, because the last layer is the teacher.
        """
        active = [s for s in supervision if denoising is not None or not s.denoising]
        missing = [s.group for s in active if s.group not in groups]
        if missing:
            raise ConfigError(
                f"criterion.supervision names {', '.join(missing)}, but the decoder predicts only {', '.join(groups)}: "
                "remove these groups, or add the part of the decoder that predicts them"
            )
        predictions = [groups[s.group].in_full_precision() for s in active]
        assignments = assign(active, predictions, targets, denoising, self.matcher, self.use_union)
        boxes = [prediction.boxes for prediction in predictions]
        matched_boxes = compare_matched_boxes(boxes, [a.localization for a in assignments], targets.boxes)
        qualities = matched_ious(boxes, [a.classification for a in assignments], targets.boxes)
        # D-FINE's code also multiplies by the number of images here, which cancels out in the weighted mean.
        # As in D-FINE's code, the counts of the first group balance the distillation of all groups.
        balance = (assignments[0].num_matched.sqrt(), assignments[0].num_unmatched.sqrt())
        for group, prediction, assignment, matched, quality in zip(
            active, predictions, assignments, matched_boxes, qualities, strict=True
        ):
            labels = group.targets(targets).labels
            values = {f"loss_{self.classification}": self._class_loss(prediction.logits, labels, assignment, quality)}
            values.update(self._box_losses(prediction, assignment, matched, balance))
            yield group, len(prediction.boxes), {name: value for name, value in values.items() if name in self.weights}

    def _class_loss(self, logits: Tensor, labels: Tensor, assignment: GroupAssignment, quality: Tensor) -> Tensor:
        matches = assignment.classification
        label = labels[matches.image, matches.target]
        index = (matches.layer, matches.image, matches.query, label)
        positive = torch.zeros_like(logits, dtype=torch.bool).index_put(index, torch.ones_like(label).bool())
        target_scores = torch.zeros_like(logits).index_put(index, quality)
        loss = CLASSIFICATION_LOSSES[self.classification](logits, positive, target_scores, **self.class_options)
        if assignment.classification_mask is not None:
            loss = loss * assignment.classification_mask[None, :, :, None]
        return loss.sum(dim=(1, 2, 3)) / matches.normalizer

    def _box_losses(
        self,
        predictions: Predictions,
        assignment: GroupAssignment,
        matched: MatchedBoxes,
        balance: tuple[Tensor, Tensor],
    ) -> dict[str, Tensor]:
        matches, layers, edges = assignment.localization, len(predictions.boxes), predictions.edges
        values = {
            "loss_bbox": matches.sum_by_layer(matched.l1, layers),
            "loss_giou": matches.sum_by_layer(1 - matched.giou, layers),
        }
        if edges is not None:
            values["loss_fgl"] = self._fgl_loss(edges, matches, matched)
            if layers > 1:
                teacher_logits = predictions.logits[-1]
                values["loss_ddf"] = self._ddf_loss(edges.corners, teacher_logits, assignment, matched.iou, balance)
        return values

    @staticmethod
    def _fgl_loss(edges: EdgeDistributions, matches: DeviceMatches, matched: MatchedBoxes) -> Tensor:
        references = edges.references[matches.image, matches.query]
        offsets = boxes_to_offsets(references, matched.targets, edges.reg_scale)
        left, right_weight = bin_targets(offsets, edges.bin_values)
        loss = functional.fine_grained_localization_loss(matches.gather(edges.corners), left, right_weight, matched.iou)
        return matches.sum_by_layer(loss, len(edges.corners))

    def _ddf_loss(
        self,
        corners: Tensor,
        teacher_logits: Tensor,
        assignment: GroupAssignment,
        quality: Tensor,
        balance: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Return the mean divergence over the edges of matched and of unmatched queries, weighted by ``balance``.

        A matched query is weighted by its IoU, an unmatched one by the teacher's highest class probability.
        """
        matches = assignment.localization
        index = (matches.layer, matches.image, matches.query)
        confidence = teacher_logits.detach().sigmoid().amax(dim=-1).expand(len(corners), -1, -1)
        weight = confidence.index_put(index, quality)[:-1]
        matched = torch.zeros_like(confidence, dtype=torch.bool)
        matched = matched.index_put(index, torch.ones_like(matches.layer, dtype=torch.bool))[:-1]
        divergence = functional.decoupled_distillation_loss(corners[:-1], corners[-1], self.temperature)
        divergence = divergence.sum(dim=-1) * weight
        means = []
        for mask, count in ((matched, assignment.num_matched), (~matched, assignment.num_unmatched)):
            # If there are no such queries, the sum is 0 as well.
            means.append((divergence * mask).sum(dim=(1, 2)) / (4 * count).clamp(min=1e-6))
        return (means[0] * balance[0] + means[1] * balance[1]) / (balance[0] + balance[1])
