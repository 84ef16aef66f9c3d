"""Weights of a backbone that was trained to classify, or inside of a detector."""

import logging
from collections.abc import Mapping

from torch import Tensor, nn

from deim.checkpoint.formats import recognise
from deim.checkpoint.formats.backbones import BACKBONE_FORMATS
from deim.checkpoint.reading import read_weights
from deim.checkpoint.renaming import grouped, to_ours
from deim.errors import CheckpointError

logger = logging.getLogger("detectron2.deim")

# Buffers that a backbone makes by itself, and files may lack.
COMPUTED = ("num_batches_tracked", "relative_position_index")
# The ResNets of Caffe2, which detectron2 also has as R-50.pkl.
_CAFFE2 = "conv1_w"


def load_backbone_weights(backbone: nn.Module, path: str, fresh: tuple[str, ...] = ()) -> None:
    """Load the weights in ``path``, of any layout in :mod:`deim.checkpoint.formats.backbones` or those of a whole
    detector. What the backbone has not, such as a classifier, is left, and the log says so.

    Args:
        fresh: what parameters' names begin with that a classifier does not have, and which stay as they are.

    Raises:
        CheckpointError: the file cannot be read, or lacks something of the backbone.
    """
    weights = backbone_weights(read_weights(path).weights, path)
    state = backbone.state_dict()
    wrong = [
        name
        for name, value in state.items()
        if not name.endswith(COMPUTED)
        and not (name.startswith(fresh) and name not in weights)
        and (name not in weights or weights[name].shape != value.shape)
    ]
    if wrong:
        raise CheckpointError(
            f"{path} are no weights of this {type(backbone).__name__}: {len(wrong)} of its tensors are missing "
            f"there or have another shape:\n  " + "\n  ".join(grouped(wrong))
        )
    left = [name for name in weights if name not in state]
    backbone.load_state_dict({name: weights[name] for name in state if name in weights}, strict=False)
    logger.info(f"Loaded the backbone from {path}" + (f", without {', '.join(grouped(left))}" if left else ""))


def backbone_weights(weights: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    """Weights of a backbone, or of the backbone of a detector, under our names; others keep theirs.

    Raises:
        CheckpointError: they are of Caffe2's ResNets, which are built differently.
    """
    if _CAFFE2 in weights:
        raise CheckpointError(
            f"{path} is a ResNet of Caffe2, which has its strides in other convolutions and takes BGR images; "
            "use the one of torchvision: detectron2://ImageNetPretrained/torchvision/R-50.pkl"
        )
    detector = recognise(weights)
    if detector is not None:
        weights, _ = detector.to_ours(weights)
    if any(name.startswith("backbone.") for name in weights):
        return {n.removeprefix("backbone."): v for n, v in weights.items() if n.startswith("backbone.")}
    found = next((one for one in BACKBONE_FORMATS if one.recognises(weights)), None)
    if found is None:
        return dict(weights)
    translated, left_over = to_ours(weights, found.rules)
    return translated | {name: weights[name] for name in left_over}
