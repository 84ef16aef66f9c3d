"""Conversion of D-FINE and RT-DETRv2 recipes to DEIM, and other changes to whole recipes."""

from typing import Any

from deim.config.building import accepts
from deim.config.masks import with_masks
from deim.config.switches import with_deim_loss

# Number of training images of COCO 2017, the dataset of most recipes.
COCO_IMAGES = 118_287


def with_deim_dfine(model: Any) -> Any:
    """Apply DEIM's changes to a D-FINE model config, in place: DEIM's loss, SiLU in the decoder, nothing frozen."""
    return with_deim_loss(_unfrozen_with_silu(model))


def with_deim_rtdetr(model: Any) -> Any:
    """Apply DEIM's changes to an RT-DETRv2 model config, in place.

    They are DEIM's loss, SiLU in the decoder, a position embedding of 3 layers, and nothing frozen.
    """
    model.decoder.position.num_layers = 3
    return with_deim_loss(_unfrozen_with_silu(model))


def with_ecseg(model: Any) -> Any:
    """Apply the changes of ECSeg to an ECDet model config, in place (EdgeCrafter, arXiv 2603.18739).

    They are masks, the balance of the losses and the matching cost, and an ECViT that is distilled for segmentation.
    """
    model.backbone.weights = "ecseg"
    with_masks(model, weight=5.0)
    # In evaluation, the official code applies only the block of the first layer.
    model.decoder.heads.masks.inference_blocks = 1
    losses, cost = model.criterion.losses, model.criterion.matcher.cost
    losses.loss_mal.weight = cost.class_weight = 2.0
    losses.loss_bbox.weight = losses.loss_giou.weight = cost.bbox_weight = cost.giou_weight = 1.0
    return model


def _unfrozen_with_silu(model: Any) -> Any:
    model.decoder.layer.activation = "silu"
    for argument, value in (("freeze_at", 0), ("freeze_norm", False)):
        if accepts(model.backbone._target_, argument):  # other backbones may lack these arguments
            model.backbone[argument] = value
    return model


def with_iterations(train: Any, schedule: Any, dataloader: Any, images: int = COCO_IMAGES) -> Any:
    """Convert the length and the periods of a schedule to iterations, and write them into ``train.iterations``, in place.

    Trainers of detectron2 and detrex count iterations. They read ``train.max_iter``, ``train.eval_period`` and
    ``train.checkpointer.period``, which refer to ``train.iterations``. The trainer of this project derives them from the schedule and the dataset
    in use. A recipe calls this function last.

    Args:
        train, schedule, dataloader: the nodes of a recipe.
        images: number of training images of the recipe's dataset.

    Returns:
        ``train``.
    """
    per_epoch = max(images // dataloader.train.total_batch_size, 1)
    train.iterations.images = images
    train.iterations.max_iter = schedule.epochs * per_epoch
    train.iterations.eval_period = schedule.eval_epochs * per_epoch
    train.iterations.checkpoint_period = schedule.checkpoint_epochs * per_epoch
    return train


def with_datasets(dataloader: Any, model: Any, datasets: Any) -> None:
    """Replace the datasets of a recipe, in place.

    Args:
        dataloader, model: the nodes of a recipe.
        datasets: an object with ``train``, ``test`` and ``num_classes``, as in ``common/data/voc.py``.
    """
    dataloader.train.dataset, dataloader.test.dataset = datasets.train, datasets.test
    # The evaluator writes the converted COCO annotations here.
    dataloader.evaluator.output_dir = "${train.output_dir}/evaluation"
    dataloader.evaluator.allow_cached_coco = False
    model.num_classes = datasets.num_classes
