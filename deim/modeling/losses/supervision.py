"""Which group of predictions is matched how and trained by which losses."""

from torch import Tensor

from deim.structures.predictions import Targets


class Supervision:
    """How one group of predictions is trained.

    Args:
        group: its name in the decoder's output.
        suffix: what its loss names end with; ``{}`` stands for the layer.
        last_suffix: that of the last layer, if another.
        denoising: matched by construction, not by the Hungarian algorithm.
        repeats: how many queries are matched to each object: 1, or more for a one-to-many group
            (H-DETR, arXiv 2207.13080, section 3.2).
        weight: of the group's losses.
        class_agnostic: any object is of the first class (the tokens of two-stage Deformable DETR).

    Raises:
        ValueError: fewer than one query to an object.
    """

    # Not a dataclass: OmegaConf makes configs of those that stand in a list.
    def __init__(
        self,
        group: str,
        suffix: str,
        last_suffix: str | None = None,
        denoising: bool = False,
        repeats: int = 1,
        weight: float = 1.0,
        class_agnostic: bool = False,
    ):
        if repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {repeats}")
        self.group, self.suffix, self.last_suffix = group, suffix, last_suffix
        self.denoising, self.repeats, self.weight = denoising, repeats, weight
        self.class_agnostic = class_agnostic

    @property
    def one_to_one(self) -> bool:
        """Whether the group is of queries that are each matched to one object, so that its matches count for
        those of other groups (GO-LSD's union); class-agnostic ones are of tokens."""
        return self.repeats == 1 and not self.denoising and not self.class_agnostic

    def targets(self, targets: Targets) -> Targets:
        """What the group is trained towards."""
        return targets.without_classes() if self.class_agnostic else targets

    def named(self, loss: str, values: Tensor, num_layers: int) -> dict[str, Tensor]:
        """A loss's values of the first layers by their names."""
        return {self.name(loss, layer, num_layers): value for layer, value in enumerate(values.unbind())}

    def name(self, loss: str, layer: int, num_layers: int) -> str:
        """What a loss of one layer is called."""
        if self.last_suffix is not None and layer == num_layers - 1:
            return loss + self.last_suffix
        return loss + self.suffix.format(layer)
