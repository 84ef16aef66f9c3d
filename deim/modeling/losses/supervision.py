"""Which group of predictions is matched how and trained by which losses."""


class Supervision:
    """How one group of predictions is trained.

    Args:
        group: its name in the decoder's output.
        suffix: what its loss names end with; ``{}`` stands for the layer.
        last_suffix: that of the last layer, if another.
        denoising: matched by construction, not by the Hungarian algorithm.
    """

    # Not a dataclass: OmegaConf makes configs of those that stand in a list.
    def __init__(self, group: str, suffix: str, last_suffix: str | None = None, denoising: bool = False):
        self.group, self.suffix, self.last_suffix, self.denoising = group, suffix, last_suffix, denoising

    def name(self, loss: str, layer: int, num_layers: int) -> str:
        """What a loss of one layer is called."""
        if self.last_suffix is not None and layer == num_layers - 1:
            return loss + self.last_suffix
        return loss + self.suffix.format(layer)
