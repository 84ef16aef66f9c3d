"""Base class of backbones with a stem and up to four stages."""

from collections.abc import Iterable, Sequence

from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import Backbone
from torch import Tensor, nn

STAGES = ("stage1", "stage2", "stage3", "stage4")


class StagedBackbone(Backbone):
    """Backbone with features "stage1" .. "stage4" at strides 4, 8, 16 and 32."""

    def stages_to_build(self, out_features: Sequence[str], freeze_at: int, num_stages: int = len(STAGES)) -> int:
        """Return the number of stages that the features need; later stages are not built.

        Args:
            out_features, freeze_at: arguments of the backbone.
            num_stages: number of stages of the architecture.

        Raises:
            ValueError: if ``out_features`` is empty, or a feature or ``freeze_at`` is invalid.
        """
        stages = STAGES[:num_stages]
        if not 0 <= freeze_at <= len(stages) + 1:
            raise ValueError(f"freeze_at must be in [0, {len(stages) + 1}], got {freeze_at}")
        if not out_features:
            raise ValueError(f"{type(self).__name__} needs out_features; choose from {list(stages)}")
        unknown = sorted(set(out_features) - set(stages))
        if unknown:
            raise ValueError(f"{type(self).__name__} has no features {unknown}; choose from {list(stages)}")
        return max(stages.index(name) for name in out_features) + 1

    def set_feature_shapes(self, out_features: Sequence[str], channels: Iterable[int]) -> None:
        """Set detectron2's description of the features; ``channels`` are those of the stages in order."""
        self._out_features = list(out_features)
        self._out_feature_channels = dict(zip(STAGES, channels, strict=False))
        self._out_feature_strides = {n: 4 * 2**index for index, n in enumerate(self._out_feature_channels)}

    def freeze(self, parts: Sequence[nn.Module], freeze_at: int, freeze_norm: bool) -> None:
        """Freeze the parameters of the first ``freeze_at`` parts, and with ``freeze_norm`` every BatchNorm.

        Args:
            parts: stem and stages, in order.
            freeze_at, freeze_norm: arguments of the backbone.
        """
        for part in parts[:freeze_at]:
            part.requires_grad_(False)
        if freeze_norm:
            FrozenBatchNorm2d.convert_frozen_batchnorm(self)
            for module in self.modules():
                if isinstance(module, FrozenBatchNorm2d):
                    # detectron2 keeps the batch counter, which frozen layers do not use; the official code removes it.
                    module.register_buffer("num_batches_tracked", None)

    @property
    def size_divisibility(self) -> int:
        return 32

    def run_stages(self, x: Tensor, stages: Iterable[nn.Module]) -> dict[str, Tensor]:
        """Map the stem's output (B, C, h, w) to {feature name: (B, C, H / stride, W / stride)}."""
        features = {}
        for index, stage in enumerate(stages):
            x = stage(x)
            if STAGES[index] in self._out_features:
                features[STAGES[index]] = x
        return features
