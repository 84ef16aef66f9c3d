"""Loading of checkpoints that says clearly what does not fit."""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from deim.checkpoint.detectron2_pickle import read_detectron2_pickle
from deim.checkpoint.layouts import present_name, with_present_names
from deim.errors import CheckpointError

logger = logging.getLogger("detectron2.deim")

# Parameters of these parts have a size that depends on the number of classes.
_CLASS_PARTS = ("score_head", "class_embedding")


def read_checkpoint(path: str) -> dict:
    """The content of a checkpoint file, on the CPU.

    Raises:
        CheckpointError: it does not exist or cannot be read.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"checkpoint {path} does not exist (set train.init_checkpoint)")
    try:
        if path.endswith(".pkl"):
            content = read_detectron2_pickle(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for files that are no checkpoints
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not the weights of a model")
    return dict(content)


def weights_of(content: Mapping, use_ema: bool) -> Mapping[str, Tensor]:
    """The weights in a checkpoint: averaged ones if wanted and there, else the trained ones."""
    if use_ema and content.get("ema_state"):
        return content["ema_state"]
    return content.get("model", content)


def load_weights(model: nn.Module, path: str, *, use_ema: bool = True, allow_other_classes: bool = False) -> None:
    """Load the weights in ``path`` into ``model``.

    Args:
        use_ema: take the averaged weights where the checkpoint has them.
        allow_other_classes: for fine-tuning: what depends on the number of classes keeps its
            initial values where the checkpoint's has another size.

    Raises:
        CheckpointError: the checkpoint is of another model; names some parameters that do not fit.
    """
    module = model.module if isinstance(model, DistributedDataParallel) else model
    weights: Mapping[str, Tensor] = with_present_names(weights_of(read_checkpoint(path), use_ema))
    state = module.state_dict()
    missing = [name for name in state if name not in weights and not name.endswith("num_batches_tracked")]
    resized = [name for name in state if name in weights and weights[name].shape != state[name].shape]
    if allow_other_classes:
        kept = [name for name in resized if any(part in name for part in _CLASS_PARTS)]
        resized = [name for name in resized if name not in kept]
        if kept:
            logger.warning(f"{path} has another number of classes; newly initialised: {', '.join(kept)}")
        weights = {name: value for name, value in weights.items() if name not in kept}
    if missing or resized:
        raise CheckpointError(_mismatch(path, state, weights, missing, resized))
    module.load_state_dict({k: v for k, v in weights.items() if k in state}, strict=False)
    logger.info(f"Loaded {len(state)} tensors from {path}")


def _mismatch(
    path: str, state: Mapping[str, Tensor], weights: Mapping[str, Tensor], missing: list[str], resized: list[str]
) -> str:
    lines = [f"checkpoint {path} does not fit the model: is it of another size or another family?"]
    for name in resized[:3]:
        lines.append(f"  {name} is {tuple(weights[name].shape)} there and {tuple(state[name].shape)} here")
    for name in missing[:3]:
        lines.append(f"  {name} is not in it")
    more = len(resized[3:]) + len(missing[3:])
    if more:
        lines.append(f"  and {more} more")
    if any(any(part in name for part in _CLASS_PARTS) for name in resized):
        lines.append("  (the number of classes differs; set model.num_classes to that of the checkpoint)")
    return "\n".join(lines)


def resume(checkpointer: DetectionCheckpointer, model: nn.Module) -> None:
    """Continue from the last checkpoint of the run, everything included.

    Raises:
        CheckpointError: it does not fit the model, or an earlier version of this package wrote it.
    """
    path = checkpointer.get_checkpoint_file()
    former = [name for name in weights_of(read_checkpoint(path), use_ema=False) if present_name(name) != name]
    if former:
        # The optimizer's state is kept by position, and positions have changed with the names.
        raise CheckpointError(
            f"{path} was written by an earlier version of deim ({former[0]} is now {present_name(former[0])}), "
            f"which cannot be resumed: start a new run from its weights, with train.init_checkpoint={path}"
        )
    load_weights(model, path, use_ema=False)
    checkpointer.load(path)
