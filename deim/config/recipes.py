"""What makes DEIM out of a recipe for another detector."""

from typing import Any

from deim.config.building import accepts
from deim.config.switches import with_deim_loss

# Training images of COCO 2017, which most recipes are for.
COCO_IMAGES = 118_287


def with_deim_dfine(model: Any) -> Any:
    """A D-FINE model config as DEIM trains it: its loss, SiLU in the decoder, nothing frozen; in place."""
    return with_deim_loss(_unfrozen_with_silu(model))


def with_deim_rtdetr(model: Any) -> Any:
    """An RT-DETRv2 model config as DEIM trains it: its loss, SiLU in the decoder, a deeper position
    embedding, nothing frozen; in place."""
    model.decoder.position.num_layers = 3
    return with_deim_loss(_unfrozen_with_silu(model))


def _unfrozen_with_silu(model: Any) -> Any:
    model.decoder.layer.activation = "silu"
    for argument, value in (("freeze_at", 0), ("freeze_norm", False)):
        if accepts(model.backbone._target_, argument):  # another backbone may have no such part
            model.backbone[argument] = value
    return model


def with_iterations(train: Any, schedule: Any, dataloader: Any, images: int = COCO_IMAGES) -> Any:
    """Write the length and the periods of a schedule in iterations into ``train.iterations``, in place.

    Trainers of detectron2 and detrex count iterations, and take ``train.max_iter``, ``train.eval_period`` and
    ``train.checkpointer.period`` from there. This project's own trainer derives them from the schedule and the data in use.
    A recipe calls this last.

    Args:
        train, schedule, dataloader: the nodes of a recipe.
        images: number of training images.

    Returns:
        ``train``.
    """
    per_epoch = max(images // dataloader.train.total_batch_size, 1)
    train.iterations.max_iter = schedule.epochs * per_epoch
    train.iterations.eval_period = schedule.eval_epochs * per_epoch
    train.iterations.checkpoint_period = schedule.checkpoint_epochs * per_epoch
    return train


def with_datasets(dataloader: Any, model: Any, datasets: Any) -> None:
    """Train and test on other data sets; in place.

    Args:
        dataloader, model: of a recipe.
        datasets: ``train``, ``test`` and ``num_classes``, as in ``common/data/voc.py``.
    """
    dataloader.train.dataset, dataloader.test.dataset = datasets.train, datasets.test
    # Where the evaluator writes what it needs in COCO's format.
    dataloader.evaluator.output_dir = "${train.output_dir}/evaluation"
    dataloader.evaluator.allow_cached_coco = False
    model.num_classes = datasets.num_classes
