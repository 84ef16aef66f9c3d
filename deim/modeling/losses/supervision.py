"""Matching and loss settings of groups of predictions."""

from torch import Tensor

from deim.structures.prediction_group import PredictionGroup
from deim.structures.predictions import Targets


class Supervision:
    """Training settings of one group of predictions.

    Args:
        group: group in the decoder's output, or its name, such as ``"main"``.
        suffix: suffix of its loss names; ``{}`` stands for the index of the layer.
        last_suffix: suffix of the last layer, if different.
        denoising: assign queries by construction, not by the Hungarian algorithm.
        repeats: number of queries matched to each object: 1, or more for a one-to-many group
            (H-DETR, arXiv 2207.13080, section 3.2).
        weight: weight of the group's losses.
        class_agnostic: treat all objects as the first class, as for the encoder proposals of two-stage Deformable DETR.

    Raises:
        ValueError: if the group is unknown, or ``repeats`` is less than 1.
    """

    # Not a dataclass, because OmegaConf converts dataclasses in lists to configs.
    def __init__(
        self,
        group: PredictionGroup | str,
        suffix: str,
        last_suffix: str | None = None,
        denoising: bool = False,
        repeats: int = 1,
        weight: float = 1.0,
        class_agnostic: bool = False,
    ):
        if repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {repeats}")
        self.group, self.suffix, self.last_suffix = PredictionGroup(group), suffix, last_suffix
        self.denoising, self.repeats, self.weight = denoising, repeats, weight
        self.class_agnostic = class_agnostic

    @property
    def in_union(self) -> bool:
        """True if the matches of the group belong to the union of matches for localization (GO-LSD).

        These are the groups that are matched one-to-one by the Hungarian algorithm, except class-agnostic groups, whose
        predictions belong to encoder tokens instead of decoder queries.
        """
        return self.repeats == 1 and not self.denoising and not self.class_agnostic

    def targets(self, targets: Targets) -> Targets:
        """Return the targets of the group."""
        return targets.without_classes() if self.class_agnostic else targets

    def layer_losses(self, loss: str, values: Tensor, num_layers: int) -> dict[str, Tensor]:
        """Return {name: value} of a loss.

        Args:
            loss: name of the loss without suffix.
            values: (N,) losses of the first N layers.
            num_layers: number of layers of the group, at least N.
        """
        return {self.loss_name(loss, layer, num_layers): value for layer, value in enumerate(values.unbind())}

    def loss_name(self, loss: str, layer: int, num_layers: int) -> str:
        """Return the name of the loss of one layer."""
        if self.last_suffix is not None and layer == num_layers - 1:
            return loss + self.last_suffix
        return loss + self.suffix.format(layer)
