"""Backbones of timm."""

from detectron2.modeling import Backbone

__all__ = ["TimmBackbone"]


class TimmBackbone(Backbone):
    """A model of timm that returns features, called "p<index>" after ``out_indices``."""

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
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise RuntimeError("TimmBackbone needs timm: pip install timm") from error
        self.timm_model = timm.create_model(
            model_name,
            features_only=features_only,
            pretrained=pretrained,
            checkpoint_path=checkpoint_path,
            in_chans=in_channels,
            out_indices=tuple(out_indices),
            **({} if norm_layer is None else {"norm_layer": norm_layer}),
        )
        info = self.timm_model.feature_info
        self._out_features = [f"p{index}" for index in out_indices]
        self._out_feature_channels = dict(zip(self._out_features, info.channels(), strict=True))
        self._out_feature_strides = dict(zip(self._out_features, info.reduction(), strict=True))

    def forward(self, x):
        return dict(zip(self._out_features, self.timm_model(x), strict=True))
