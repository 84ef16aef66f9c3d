"""Base class of augmentations that combine samples of a batch, such as mixup and copy-blend."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from deim.errors import ConfigError
from deim.schedule import Schedule, Stage


class BatchOperation(ABC):
    """Operation that combines the samples of a batch.

    The operations of a data loader are alternatives: they are drawn in order, and only the first one that is drawn is
    applied to a batch.

    Args:
        prob: probability that a batch is combined, given that no earlier operation is applied to it.
        ratio: range of the weight of the image; what is blended into the image gets the remainder.
        epochs: (start, stop) of the operation, counted from 0; the stop is exclusive. A stop of None is the end of the
            stage STRONG. None for ``dense_epochs`` of the schedule. The stage FINAL never has operations.

    Raises:
        ConfigError: if a value is invalid.
    """

    # Subclasses are not dataclasses: OmegaConf would convert dataclasses in lists of a config to config nodes.
    def __init__(
        self,
        prob: float = 0.5,
        ratio: tuple[float, float] = (0.45, 0.55),
        epochs: tuple[int, int | None] | None = None,
    ):
        name = type(self).__name__
        if not 0 <= prob <= 1:
            raise ConfigError(f"{name}: prob must be in [0, 1], got {prob}")
        if not 0 <= ratio[0] <= ratio[1] <= 1:
            raise ConfigError(f"{name}: ratio must be [low, high] with 0 <= low <= high <= 1, got {list(ratio)}")
        if epochs is not None and (epochs[0] < 0 or (epochs[1] is not None and epochs[1] < epochs[0])):
            raise ConfigError(f"{name}: epochs must be [start, stop] with 0 <= start <= stop, got {list(epochs)}")
        self.prob, self.ratio = prob, (ratio[0], ratio[1])
        self.epochs = None if epochs is None else (epochs[0], epochs[1])

    def is_active(self, epoch: int, schedule: Schedule) -> bool:
        """Return True if the operation may be applied in ``epoch``, counted from 0."""
        if schedule.stage(epoch) is Stage.FINAL:
            return False
        start, stop = schedule.dense_epochs if self.epochs is None else self.epochs
        if stop is None:
            stop = schedule.final_epoch if schedule.strong_end_epoch is None else schedule.strong_end_epoch
        return start <= epoch < stop

    def draw_weight(self) -> float | None:
        """Draw the weight for a batch from NumPy's global generator; return None if the batch is not combined."""
        weight = np.random.uniform(*self.ratio)
        return weight if np.random.uniform() < self.prob else None

    @abstractmethod
    def source_positions(self, position: int, batch_size: int) -> Sequence[int]:
        """Return the positions of the samples that :meth:`apply` needs for a sample.

        Args:
            position: position of the sample in the batch.
            batch_size: number of samples in the batch.
        """

    @abstractmethod
    def apply(self, sample: dict, sources: Sequence[dict], weight: float, generator: np.random.Generator) -> dict:
        """Return a sample combined with others of its batch, which are not modified.

        Args:
            sample: sample with ``image`` uint8 (3, H, W) and ``instances``; not modified.
            sources: the samples at :meth:`source_positions`, with the same image size.
            weight: weight of the image, drawn once for the whole batch.
            generator: random numbers of this sample.
        """
