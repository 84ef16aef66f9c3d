"""Weights of a backbone that was trained to classify."""

import logging

from torch import nn

from deim.checkpoint.loading import read_checkpoint, weights_of
from deim.errors import CheckpointError

logger = logging.getLogger("detectron2.deim")


def load_backbone_weights(backbone: nn.Module, path: str, fresh: tuple[str, ...] = ()) -> None:
    """Load the weights in ``path``; what the backbone has not, such as a classifier, is left.

    Args:
        fresh: what parameters' names begin with that a classifier does not have, and which stay as they are.

    Raises:
        CheckpointError: the file cannot be read, or lacks something of the backbone.
    """
    weights = weights_of(read_checkpoint(path), use_ema=True)
    wrong = [
        name
        for name, value in backbone.state_dict().items()
        if not name.endswith("num_batches_tracked")
        and not (name.startswith(fresh) and name not in weights)
        and (name not in weights or weights[name].shape != value.shape)
    ]
    if wrong:
        raise CheckpointError(
            f"{path} are no weights of this {type(backbone).__name__}: {len(wrong)} of its tensors are missing "
            f"there or have another shape, such as {', '.join(wrong[:3])}"
        )
    backbone.load_state_dict({name: weights[name] for name in backbone.state_dict() if name in weights}, strict=False)
    logger.info(f"Loaded the backbone from {path}")
