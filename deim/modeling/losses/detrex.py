"""Criterion of this package with the interface of detrex's criteria.

The config of a detrex model selects it::

    model.criterion = L(DetrexCriterion)(num_classes="${..num_classes}", classification="mal")

The model itself is unchanged.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deim.modeling.losses.boxes import BoxGIoULoss, BoxL1Loss
from deim.modeling.losses.classification import CLASSIFICATION_LOSSES
from deim.modeling.losses.criterion import Criterion
from deim.modeling.losses.group_loss import GroupLoss
from deim.modeling.losses.supervision import Supervision
from deim.modeling.matching import HungarianMatcher
from deim.modeling.queries.denoising import DenoisingGroups
from deim.structures.prediction_group import PredictionGroup
from deim.structures.predictions import Predictions, Targets


class DetrexCriterion(nn.Module):
    """Criterion for detrex models that replaces detrex's own.

    It can replace ``SetCriterion``, ``TwoStageCriterion``, ``DNCriterion``, ``DINOCriterion`` and
    ``GroupSetCriterion``: a model calls it with its outputs and targets, and multiplies the returned losses by
    ``weight_dict``.

    Args:
        num_classes: K; the model predicts K sigmoid logits.
        classification: "mal", "vfl" or "focal".
        weight_dict: weights of ``loss_class``, ``loss_bbox`` and ``loss_giou``. As in detrex, the attribute with this
            name contains the weight of each returned loss. It is empty before the first call.
        matcher: matcher of all queries but the denoising queries.
        alpha, gamma: parameters of the classification loss; None uses the default of the loss.
        two_stage_binary_cls: train the encoder's tokens with one class for all objects.
        group_nums: number of query groups that are matched separately (Group DETR).

    Raises:
        ValueError: if the classification loss or the name of a loss is unknown.
    """

    def __init__(
        self,
        num_classes: int,
        classification: str = "mal",
        weight_dict: Mapping[str, float] | None = None,
        matcher: HungarianMatcher | None = None,
        alpha: float | None = None,
        gamma: float | None = None,
        two_stage_binary_cls: bool = False,
        group_nums: int = 1,
    ):
        super().__init__()
        weights = dict(weight_dict or {"loss_class": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0})
        self.main = Supervision(PredictionGroup.MAIN, "_{}", last_suffix="")
        self.encoder = Supervision(PredictionGroup.ENCODER, "_enc", class_agnostic=two_stage_binary_cls)
        self.denoising = Supervision(PredictionGroup.DENOISING, "_dn_{}", last_suffix="_dn", denoising=True)
        self.criterion = Criterion(
            num_classes,
            [self.main, self.encoder, self.denoising],
            matcher,
            losses=_losses(classification, weights, alpha, gamma),
            use_union=False,
        )
        self.group_nums = group_nums
        self.weight_dict: dict[str, float] = {}

    def forward(
        self, outputs: Mapping[str, Any], targets: Sequence[Mapping[str, Tensor]], dn_metas: Mapping | None = None
    ) -> dict[str, Tensor]:
        """Compute the losses.

        Args:
            outputs: ``pred_logits`` (B, Q, K) and ``pred_boxes`` (B, Q, 4) of the last layer, cxcywh in [0, 1];
                ``aux_outputs``, a list with the same entries of the other layers; ``enc_outputs``, the same entries of
                the encoder's tokens. DN-DETR adds ``denoising_output``, the same entries and ``aux_outputs`` of the
                denoising queries, with the number of groups ``denoising_groups`` and their size
                ``max_gt_num_per_image``. Only ``pred_logits`` and ``pred_boxes`` are required.
            targets: ``labels`` (n,) int64 and ``boxes`` (n, 4) cxcywh in [0, 1] of each image.
            dn_metas: outputs of DINO's denoising queries: ``output_known_lbs_bboxes``, like ``denoising_output``, with
                the number of groups ``dn_num`` and their size ``single_padding``.

        Returns:
            {name: () unweighted loss} with detrex's names: ``loss_class``, ``loss_bbox_0``, ``loss_giou_enc``,
            ``loss_class_dn_1`` and so on.

        Raises:
            ValueError: if the number of logits differs from ``num_classes``.
        """
        denoising_outputs, denoising = _denoising_outputs(outputs, dn_metas)
        outputs_by_supervision = {
            self.main: outputs,
            self.encoder: outputs.get("enc_outputs"),
            self.denoising: denoising_outputs,
        }
        present = {key: content for key, content in outputs_by_supervision.items() if content is not None}
        groups: dict[str, Predictions] = {
            supervision.group: self._stack_layers(content) for supervision, content in present.items()
        }
        collated = Targets.collate([image["labels"] for image in targets], [image["boxes"] for image in targets])
        if self.training and self.group_nums > 1:
            collated, groups = _separate_query_groups(collated, groups, self.group_nums)
        terms = self.criterion.terms(groups, collated, denoising, list(present))
        self.weight_dict.update({name: weight for name, (_, weight) in terms.items()})
        # Cloned because models multiply them in place.
        return {name: value.clone() for name, (value, _) in terms.items()}

    def _stack_layers(self, outputs: Mapping[str, Any]) -> Predictions:
        layers = [*outputs.get("aux_outputs", ()), outputs]
        logits = torch.stack([layer["pred_logits"] for layer in layers])
        if logits.shape[-1] != self.criterion.num_classes:
            raise ValueError(
                f"the model predicts {logits.shape[-1]} logits, but num_classes is {self.criterion.num_classes}. "
                "Set num_classes to the number of logits. Models with an additional logit for the background and a "
                "softmax (DETR, PnP-DETR) are not supported"
            )
        return Predictions(logits, torch.stack([layer["pred_boxes"] for layer in layers]))


def _losses(
    classification: str, weights: Mapping[str, float], alpha: float | None, gamma: float | None
) -> dict[str, GroupLoss]:
    """Return the losses that ``weights`` names.

    Raises:
        ValueError: if the classification loss or the name of a loss is unknown.
    """
    if classification not in CLASSIFICATION_LOSSES:
        raise ValueError(
            f"unknown classification loss {classification!r}; choose one of {', '.join(CLASSIFICATION_LOSSES)}"
        )
    parameters = {name: value for name, value in (("alpha", alpha), ("gamma", gamma)) if value is not None}
    losses: dict[str, GroupLoss] = {
        "loss_class": CLASSIFICATION_LOSSES[classification](**parameters),
        "loss_bbox": BoxL1Loss(),
        "loss_giou": BoxGIoULoss(),
    }
    unknown_names = sorted(set(weights) - set(losses))
    if unknown_names:
        raise ValueError(f"weight_dict: unknown losses {', '.join(unknown_names)}; choose from {', '.join(losses)}")
    for name, weight in weights.items():
        losses[name].weight = weight
    return {name: loss for name, loss in losses.items() if name in weights}


def _denoising_outputs(
    outputs: Mapping[str, Any], dn_metas: Mapping | None
) -> tuple[Mapping | None, DenoisingGroups | None]:
    """Return the outputs of the denoising queries and their arrangement in groups; both None without such queries."""
    if dn_metas and "output_known_lbs_bboxes" in dn_metas:
        denoising_outputs, groups, size = (
            dn_metas[name] for name in ("output_known_lbs_bboxes", "dn_num", "single_padding")
        )
    elif "denoising_output" in outputs:
        denoising_outputs, groups, size = (
            outputs[name] for name in ("denoising_output", "denoising_groups", "max_gt_num_per_image")
        )
    else:
        return None, None
    return denoising_outputs, DenoisingGroups(num_groups=int(groups), group_size=int(size))


def _separate_query_groups(
    targets: Targets, groups: Mapping[str, Predictions], count: int
) -> tuple[Targets, dict[str, Predictions]]:
    """Treat each query group as a separate image: (L, B, count * Q, ...) -> (L, B * count, Q, ...)."""
    separated = {
        name: Predictions(*(x.unflatten(2, (count, -1)).flatten(1, 2) for x in (group.logits, group.boxes)))
        for name, group in groups.items()
    }
    labels, boxes = (x.repeat_interleave(count, dim=0) for x in (targets.labels, targets.boxes))
    return Targets(labels, boxes, [n for n in targets.counts for _ in range(count)]), separated
