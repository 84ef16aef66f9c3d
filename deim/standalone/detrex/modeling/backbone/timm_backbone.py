"""Backbones from timm."""

import warnings

from detectron2.modeling import Backbone

__all__ = ["TimmBackbone"]


class TimmBackbone(Backbone):
    """A timm network that returns features named "p<index>" for ``out_indices``."""

    def __init__(
        self,
        model_name,
        features_only=True,
        pretrained=False,
        checkpoint_path="",
        in_channels=3,
        out_indices=(0, 1, 2, 3),
        norm_layer=None,
    ):
        """Create the network with ``timm.create_model``.

        Args:
            model_name: name of the network.
            features_only: whether to return features instead of classes.
            pretrained: whether to download pretrained weights.
            checkpoint_path: path of a file of weights.
            in_channels: number of channels of the images.
            out_indices: indices of the stages whose features are returned.
            norm_layer: class of the norm layers; None for the network's default.

        Raises:
            AttributeError: if the network cannot return features.
            RuntimeError: if timm is not installed.
            TypeError: if ``pretrained`` is not a bool.
            ValueError: if the network does not support ``norm_layer``.
        """
        super().__init__()
        if not isinstance(pretrained, bool):
            raise TypeError(f"pretrained must be a bool, got {pretrained!r}; to load a file, pass checkpoint_path")
        if features_only and checkpoint_path:
            warnings.warn("features_only and checkpoint_path together may cause an error in timm", stacklevel=2)
        self.timm_model = _create_model(
            model_name=model_name,
            pretrained=pretrained,
            checkpoint_path=checkpoint_path,
            features_only=features_only,
            out_indices=out_indices,
            in_chans=in_channels,
            norm_layer=norm_layer,
        )
        self.out_indices = out_indices
        info = getattr(self.timm_model, "feature_info", None)
        if info is not None:
            self._out_features = [f"p{index}" for index in out_indices]
            self._out_feature_channels = dict(zip(self._out_features, info.channels(), strict=True))
            self._out_feature_strides = dict(zip(self._out_features, info.reduction(), strict=True))

    def forward(self, x):
        """Return {name: feature} for images of shape (N, C, H, W)."""
        return {f"p{index}": feature for index, feature in zip(self.out_indices, self.timm_model(x), strict=False)}


def _create_model(**arguments):
    try:
        import timm
    except ImportError as error:
        raise RuntimeError("TimmBackbone needs timm: pip install 'deim[timm]'") from error
    try:
        return timm.create_model(**arguments)
    except Exception as error:
        if "feature_info" in str(error):
            raise AttributeError(f"timm cannot return features of {arguments['model_name']}") from error
        if "norm_layer" in str(error):
            raise ValueError(
                f"{arguments['model_name']} does not support the norm_layer; set norm_layer=None"
            ) from error
        raise
