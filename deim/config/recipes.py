"""What makes DEIM out of a recipe for another detector."""

from typing import Any

from detectron2.config import LazyCall

from deim.data.mixup import Mixup
from deim.data.mosaic import Mosaic
from deim.modeling.decoder import DistributionRefinement
from deim.modeling.losses import Supervision
from deim.modeling.queries import LearnedQueries


def with_deim_loss(model: Any) -> Any:
    """Replace the classification loss of a model config by the matchability-aware loss (DEIM, section 3.3).

    Args:
        model: a config whose ``criterion`` is a :class:`deim.modeling.losses.Criterion`; changed in place.
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
    return with_deim_loss(_unfrozen_with_silu(model))


def with_deim_rtdetr(model: Any) -> Any:
    """An RT-DETRv2 model config as DEIM trains it: its loss, SiLU in the decoder, a deeper position
    embedding, nothing frozen; in place."""
    model.decoder.position.num_layers = 3
    return with_deim_loss(_unfrozen_with_silu(model))


def _unfrozen_with_silu(model: Any) -> Any:
    model.decoder.layer.activation = model.decoder.refinement.activation = "silu"
    model.backbone.freeze_at, model.backbone.freeze_norm = 0, False
    return model


def with_fdr(model: Any) -> Any:
    """Fine-grained distribution refinement and its self-distillation (D-FINE, section 4) in place of the
    decoder's way to refine boxes; in place.

    Args:
        model: a config whose ``decoder`` is a :class:`deim.modeling.Decoder`, and whose ``criterion`` lists
            its ``supervision``.
    """
    model.decoder.refinement = LazyCall(DistributionRefinement)(
        dim="${..layer.dim}",
        num_classes="${...num_classes}",
        num_layers="${..num_layers}",
        activation=model.decoder.refinement.activation,
        reg_max=32,
        reg_scale=4.0,
    )
    criterion = model.criterion
    criterion.weights = {**criterion.weights, "loss_fgl": 0.15, "loss_ddf": 1.5}
    criterion.use_union = True
    criterion.supervision = [
        *criterion.supervision,
        LazyCall(Supervision)(group="initial", suffix="_pre"),
        LazyCall(Supervision)(group="denoising_initial", suffix="_dn_pre", denoising=True),
    ]
    return model


def with_learned_queries(model: Any) -> Any:
    """Queries that are learned and the same for every image, in place of selected encoder tokens; in place.

    Args:
        model: a config whose ``decoder`` is a :class:`deim.modeling.Decoder`, and whose ``criterion`` lists
            its ``supervision``.
    """
    count = model.decoder.queries.num_queries
    model.decoder.queries = LazyCall(LearnedQueries)(dim="${..layer.dim}", num_queries=count)
    model.criterion.supervision = [one for one in model.criterion.supervision if one.group != "encoder"]
    return model


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
