"""What makes DEIM out of a recipe for another detector."""

from typing import Any

from detectron2.config import LazyCall

from deim.data.mixup import Mixup
from deim.data.mosaic import Mosaic


def with_deim_loss(model: Any) -> Any:
    """Replace the classification loss of a model config by the matchability-aware loss (DEIM, section 3.3).

    Args:
        model: a config whose ``criterion`` is a :class:`deim.losses.Criterion`; changed in place.
    """
    criterion = model.criterion
    former = f"loss_{criterion.classification}"
    criterion.weights = {"loss_mal": 1.0, **{k: v for k, v in criterion.weights.items() if k != former}}
    criterion.classification = "mal"
    criterion.alpha, criterion.gamma = None, 1.5
    return model


def with_dense_o2o(dataloader: Any) -> Any:
    """Mosaic and mixup in the training data of a config, in the schedule's ``dense_epochs``
    (DEIM, section 3.2); in place.

    Args:
        dataloader: a config whose ``train.mapper`` is a :class:`deim.data.staged.StagedMapper`.
    """
    dataloader.train.mapper.mosaic = LazyCall(Mosaic)(
        tile_size=320, degrees=10.0, translate=0.1, scale=(0.5, 1.5), fill=0
    )
    dataloader.train.mixup = LazyCall(Mixup)(prob=0.5, ratio=(0.45, 0.55))
    return dataloader


def with_deim_dfine(model: Any) -> Any:
    """A D-FINE model config as DEIM trains it: its loss, SiLU in the decoder, nothing frozen; in place."""
    model.decoder.activation = model.decoder.mlp_activation = "silu"
    model.backbone.freeze_at, model.backbone.freeze_norm = 0, False
    return with_deim_loss(model)


def with_deim_rtdetr(model: Any) -> Any:
    """An RT-DETRv2 model config as DEIM trains it: its loss, SiLU in the decoder, a deeper position
    embedding, nothing frozen; in place."""
    model.decoder.activation = model.decoder.mlp_activation = "silu"
    model.decoder.position_layers = 3
    model.backbone.freeze_at, model.backbone.freeze_norm = 0, False
    return with_deim_loss(model)


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
