"""Instance segmentation as a component of a recipe."""

import re
from typing import Any

from detectron2.config import LazyCall

from deim.config.annotations import request_annotations
from deim.config.heads import add_head, has_head, remove_head
from deim.modeling.decoder import MaskHead
from deim.modeling.losses import MaskCrossEntropyLoss, MaskDiceLoss
from deim.modeling.matching import MaskCost

# Size of the predicted masks relative to the image: 1 / 4.
MASK_STRIDE = 4


def has_masks(model: Any) -> bool:
    """Return True if the decoder of a model config predicts masks."""
    return has_head(model, "masks")


def with_masks(model: Any, weight: float = 1.0) -> Any:
    """Predict a mask for each object (EdgeCrafter, arXiv 2603.18739), and use the masks in the matching as well.

    The masks have a quarter of the size of the image.

    Args:
        model: the node of a recipe.
        weight: weight of each of the two losses, and of each of the two terms of the matching cost.
    """
    head = LazyCall(MaskHead)(
        dim="${...layer.dim}", num_layers="${...num_layers}", upsampling=max(_finest_stride(model) // MASK_STRIDE, 1)
    )
    losses = {
        "loss_mask_ce": LazyCall(MaskCrossEntropyLoss)(weight=weight),
        "loss_mask_dice": LazyCall(MaskDiceLoss)(weight=weight),
    }
    add_head(model, "masks", head, losses, LazyCall(MaskCost)(cross_entropy_weight=weight, dice_weight=weight))
    return model


def without_masks(model: Any) -> Any:
    """Remove the mask head, its losses and its matching cost."""
    remove_head(model, "masks", ("loss_mask_ce", "loss_mask_dice"), MaskCost)
    return model


def with_mask_data(dataloader: Any, mask_stride: int = MASK_STRIDE) -> Any:
    """Load the masks of the training objects; the readers of both datasets check the masks.

    Args:
        dataloader: the node of a recipe.
        mask_stride: the masks are rasterized at 1 / ``mask_stride`` of the size of the image.
    """
    dataloader.train.mapper.masks = True
    dataloader.train.mapper.mask_stride = mask_stride
    request_annotations(dataloader, "masks")
    return dataloader


def without_mask_data(dataloader: Any) -> Any:
    """Load the training objects without masks."""
    dataloader.train.mapper.masks = False
    request_annotations(dataloader, "masks", False)
    return dataloader


def _finest_stride(model: Any) -> int:
    """Return the stride of the finest map, from the names of the backbone's maps, such as ``res3`` (stride 8) or
    ``stage2`` (also stride 8); 8 if the names tell nothing."""
    name = next(iter(model.backbone.get("out_features") or ()), "")
    match = re.fullmatch(r"(res|stage)(\d)", name)
    if match is None:
        return 8
    level = int(match[2]) + (match[1] == "stage")
    return int(2**level)
