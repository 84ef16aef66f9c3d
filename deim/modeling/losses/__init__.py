"""Losses and the criterion that applies them."""

from deim.modeling.losses.boxes import BoxGIoULoss, BoxL1Loss
from deim.modeling.losses.classification import ClassificationLoss, FocalLoss, MatchabilityAwareLoss, VarifocalLoss
from deim.modeling.losses.criterion import Criterion
from deim.modeling.losses.detrex import DetrexCriterion
from deim.modeling.losses.edge_distributions import DistillationLoss, FineGrainedLocalizationLoss
from deim.modeling.losses.group_loss import GroupLoss, GroupLossInputs
from deim.modeling.losses.keypoints import KeypointL1Loss, KeypointOKSLoss
from deim.modeling.losses.masks import MaskCrossEntropyLoss, MaskDiceLoss
from deim.modeling.losses.matched_masks import MaskPointSampler
from deim.modeling.losses.quality import BoxIoUQuality, KeypointQuality, MatchQuality
from deim.modeling.losses.supervision import Supervision

__all__ = [
    "BoxGIoULoss",
    "BoxIoUQuality",
    "BoxL1Loss",
    "ClassificationLoss",
    "Criterion",
    "DetrexCriterion",
    "DistillationLoss",
    "FineGrainedLocalizationLoss",
    "FocalLoss",
    "GroupLoss",
    "GroupLossInputs",
    "KeypointL1Loss",
    "KeypointOKSLoss",
    "KeypointQuality",
    "MaskCrossEntropyLoss",
    "MaskDiceLoss",
    "MaskPointSampler",
    "MatchQuality",
    "MatchabilityAwareLoss",
    "Supervision",
    "VarifocalLoss",
]
