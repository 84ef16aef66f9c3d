"""Construction of encoders from the feature names and widths of a backbone.

Configs omit these arguments::

    encoder=L(HybridEncoder.for_backbone)(hidden_dim=256)

so that replacing the backbone only changes one config node.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from deim.errors import ConfigError

Encoder = TypeVar("Encoder", bound=nn.Module)

# Side of the probe image: a multiple of the strides and window sizes of all known backbones.
_PROBE_SIDE = 224


def for_backbone(
    encoder: type[Encoder],
    in_features: Sequence[str] | None = None,
    in_channels: Sequence[int] | None = None,
    **arguments: Any,
) -> Callable[[nn.Module], Encoder]:
    """Return a function that builds an encoder for a backbone.

    :class:`deim.modeling.DEIMDetector` calls the function with its backbone.

    Args:
        encoder: class with the arguments ``in_features`` and ``in_channels``.
        in_features: names of the features to use, finest first. None uses all features of the backbone.
        in_channels: widths of the features. None reads them from the backbone.
        arguments: the remaining arguments of the encoder.

    Raises:
        TypeError: if the encoder does not have one of the arguments.
    """
    inspect.signature(encoder).bind(in_features, in_channels, **arguments)
    return functools.partial(_build, encoder, in_features, in_channels, arguments)


def _build(
    encoder: type[Encoder],
    in_features: Sequence[str] | None,
    in_channels: Sequence[int] | None,
    arguments: dict[str, Any],
    backbone: nn.Module,
) -> Encoder:
    if in_features is None or in_channels is None:
        widths = feature_widths(backbone)
        names = list(widths) if in_features is None else list(in_features)
        missing = [name for name in names if name not in widths]
        if missing:
            raise ConfigError(
                f"model.encoder.in_features names {', '.join(missing)}, but the backbone has {', '.join(widths)}"
            )
        in_features = names
        in_channels = [widths[name] for name in names] if in_channels is None else in_channels
    return encoder(in_features, in_channels, **arguments)


def feature_widths(backbone: Any) -> dict[str, int]:
    """Return the width of each feature map of a backbone, finest first.

    detectron2 backbones report them by ``output_shape()``. Other backbones are run once on a blank image.

    Args:
        backbone: returns {name: (B, C, h, w)} for (B, 3, H, W) images.

    Raises:
        ConfigError: if the backbone neither reports its features nor returns a dict of maps.
    """
    shapes = _reported_shapes(backbone)
    if shapes is None:
        return _measured_widths(backbone)
    return {name: shape.channels for name, shape in sorted(shapes.items(), key=lambda item: item[1].stride)}


def finest_stride(backbone: Any) -> int:
    """Return the stride of the finest feature map of a backbone; 1 if the backbone does not report strides."""
    shapes = _reported_shapes(backbone) or {}
    return min((shape.stride for shape in shapes.values() if shape.stride), default=1)


def _reported_shapes(backbone: Any) -> dict[str, Any] | None:
    """Return the ``output_shape()`` of a backbone of detectron2; None for other backbones."""
    try:
        return backbone.output_shape()
    except AttributeError:  # no output_shape(), or no `_out_features`, which detectron2's method reads
        return None


@torch.no_grad()
def _measured_widths(backbone: Any) -> dict[str, int]:
    training, parameter = backbone.training, next(backbone.parameters(), torch.zeros(()))
    try:
        features = backbone.eval()(
            torch.zeros(1, 3, _PROBE_SIDE, _PROBE_SIDE, device=parameter.device, dtype=parameter.dtype)
        )
        sizes = {name: (-int(maps.shape[-1]), int(maps.shape[1])) for name, maps in features.items()}
    except Exception as error:  # a model with a different purpose may raise any exception
        raise ConfigError(
            f"model.backbone has type {type(backbone).__name__}, which has no output_shape() method as in detectron2 "
            f"and does not return feature maps by name ({type(error).__name__}: {error}): "
            "set model.encoder.in_features and model.encoder.in_channels in the config"
        ) from error
    finally:
        backbone.train(training)
    return {name: width for name, (_, width) in sorted(sizes.items(), key=lambda item: item[1][0])}
