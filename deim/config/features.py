"""What a config knows of its backbone's features by naming the backbone alone::

    encoder=L(HybridEncoder)(
        in_features="${deim.features:${..backbone}}",
        in_channels="${deim.channels:${..backbone}}",
    )

so that another backbone under an encoder is one node of the config. ``import deim`` makes both known to OmegaConf.
"""

from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf

from deim.config.building import WEIGHTS_ARGUMENTS, build
from deim.errors import ConfigError

# Nodes may hold classes, as those of LazyConfig do.
_OBJECTS = {"allow_objects": True}


# {what describes a backbone: its features}: each is built but once to be asked.
_known: dict[str, dict[str, int]] = {}


def feature_names(backbone: Any) -> list[str]:
    """Names of a backbone's features, finest first.

    Args:
        backbone: the node of a config that describes it.

    Raises:
        ConfigError: it cannot be built, or does not say what it gives as detectron2's backbones do.
    """
    return list(_features(backbone))


def feature_channels(backbone: Any) -> list[int]:
    """Widths of the features, in the order of :func:`feature_names`; raises the same."""
    return list(_features(backbone).values())


def _features(backbone: Any) -> dict[str, int]:
    if not OmegaConf.is_dict(backbone):
        raise ConfigError("the config has no backbone that could be asked for its features")
    description = OmegaConf.to_container(backbone, resolve=True)
    assert isinstance(description, dict)
    # Widths do not depend on weights.
    description.update({name: value for name, value in WEIGHTS_ARGUMENTS.items() if name in description})
    key = repr(description)
    if key not in _known:
        _known[key] = _ask(_built(description))
    return _known[key]


def _built(description: dict) -> Any:
    try:
        # Many backbones can be built without values, and then nothing is allocated.
        with torch.device("meta"):
            return instantiate(description)
    except Exception:  # whatever it is, it comes again below, or was due to the missing values
        with torch.random.fork_rng(devices=[]):
            return build(OmegaConf.create({"model": {"backbone": description}}, flags=_OBJECTS), "model.backbone")


def _ask(backbone: Any) -> dict[str, int]:
    if not callable(getattr(backbone, "output_shape", None)):
        raise ConfigError(
            f"model.backbone is a {type(backbone).__name__}, which has no output_shape() as detectron2's backbones have: "
            "write model.encoder.in_features and in_channels into the config"
        )
    shapes = sorted(backbone.output_shape().items(), key=lambda item: item[1].stride)
    return {name: shape.channels for name, shape in shapes}
