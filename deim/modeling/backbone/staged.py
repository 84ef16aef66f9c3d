"""What backbones of a stem and four stages have in common."""

from collections.abc import Iterable, Sequence

from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import Backbone
from torch import Tensor, nn

STAGES = ("stage1", "stage2", "stage3", "stage4")


class StagedBackbone(Backbone):
    """Features "stage1" .. "stage4" at strides 4, 8, 16 and 32."""

    def stages_to_build(self, out_features: Sequence[str], freeze_at: int) -> int:
        """How many stages the features need; what nothing reads is not built.

        Raises:
            ValueError: an unknown feature or ``freeze_at``.
        """
        if not 0 <= freeze_at <= len(STAGES) + 1:
            raise ValueError(f"freeze_at must be in [0, {len(STAGES) + 1}], got {freeze_at}")
        unknown = sorted(set(out_features) - set(STAGES))
        if unknown:
            raise ValueError(f"{type(self).__name__} has no features {unknown}; choose from {list(STAGES)}")
        return max(STAGES.index(name) for name in out_features) + 1

    def describe(self, out_features: Sequence[str], channels: Iterable[int]) -> None:
        """Set what detectron2 wants to know of a backbone; ``channels`` of the stages in order."""
        self._out_features = list(out_features)
        self._out_feature_channels = dict(zip(STAGES, channels, strict=False))
        self._out_feature_strides = {n: 4 * 2**index for index, n in enumerate(self._out_feature_channels)}

    def freeze(self, parts: Sequence[nn.Module], freeze_at: int, freeze_norm: bool) -> None:
        """Freeze the first ``freeze_at`` of the stem and the stages, and if asked all normalization."""
        for part in parts[:freeze_at]:
            part.requires_grad_(False)
        if freeze_norm:
            FrozenBatchNorm2d.convert_frozen_batchnorm(self)
            for module in self.modules():
                if isinstance(module, FrozenBatchNorm2d):
                    # detectron2 keeps the counter of batches that nothing counts any more, the official code does not.
                    module.register_buffer("num_batches_tracked", None)

    @property
    def size_divisibility(self) -> int:
        return 32

    def run_stages(self, x: Tensor, stages: Iterable[nn.Module]) -> dict[str, Tensor]:
        """(B, C, h, w) from the stem -> {feature name: (B, C, H / stride, W / stride)}."""
        features = {}
        for index, stage in enumerate(stages):
            x = stage(x)
            if STAGES[index] in self._out_features:
                features[STAGES[index]] = x
        return features
