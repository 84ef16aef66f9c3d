"""What makes DEIM out of a recipe for another detector."""

from typing import Any


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


def with_deim_dfine(model: Any) -> Any:
    """A D-FINE model config as DEIM trains it: its loss, SiLU in the decoder, nothing frozen; in place."""
    model.decoder.activation = model.decoder.mlp_activation = "silu"
    model.backbone.freeze_at, model.backbone.freeze_norm = 0, False
    return with_deim_loss(model)
