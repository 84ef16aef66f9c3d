"""Loading of weights in any layout into a model, with a full report of mismatches."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from deim.checkpoint import classes as class_names
from deim.checkpoint.formats import Format, recognize
from deim.checkpoint.formats.format import shared_names
from deim.checkpoint.former_names import current_name, with_current_names
from deim.checkpoint.reading import StoredWeights, read_checkpoint, read_weights, select_weights
from deim.checkpoint.renaming import group_names
from deim.errors import CheckpointError

logger = logging.getLogger("detectron2.deim")

_HEADS = "decoder.heads."
# Parts of a model whose shapes depend on the number of keypoints; the quality heads only in a decoder for poses.
_KEYPOINT_PARTS = (
    "decoder.queries.keypoint_embedding.",
    "decoder.queries.pose_head.",
    "decoder.denoising.keypoint_embedding.",
    "decoder.refinement.quality_heads.",
    "decoder.heads.keypoints.",
)


def load_weights(
    model: nn.Module,
    path: str,
    *,
    use_ema: bool = True,
    allow_other_classes: bool = False,
    classes: Sequence[str] | None = None,
) -> None:
    """Load the weights in ``path`` into ``model``, from any layout in :data:`deim.checkpoint.formats.FORMATS`.

    Args:
        use_ema: load the EMA weights if the checkpoint has them.
        allow_other_classes: for fine-tuning: classes and prediction heads that the checkpoint lacks keep their initial
            values. So do the parts that depend on the number of keypoints, if the checkpoint has another number.
        classes: class names of the model. Class weights are matched by name if the checkpoint names its classes or
            their number identifies them.

    Raises:
        CheckpointError: if the checkpoint belongs to a different model. The message names all parameters that do not
            fit.
    """
    load_stored_weights(model, read_weights(path, use_ema), allow_other_classes=allow_other_classes, classes=classes)


def load_stored_weights(
    model: nn.Module, stored: StoredWeights, *, allow_other_classes: bool = False, classes: Sequence[str] | None = None
) -> None:
    """Load weights as :func:`load_weights` does, from a file that has been read already."""
    module = model.module if isinstance(model, DistributedDataParallel) else model
    weights = to_native_layout(stored, module)
    if is_deployed(weights):
        raise CheckpointError(
            f"{stored.path} contains a model in deployment form, which cannot be trained: start from the training form"
        )
    if allow_other_classes:
        state = module.state_dict()
        weights = _with_new_heads(stored.path, weights, state)
        weights = _with_new_keypoints(stored.path, weights, state)
    _load(module, _for_classes(stored, weights, module, classes, allow_other_classes), stored.path)


def load_for_inference(
    model: nn.Module, path: str, *, use_ema: bool = True, classes: Sequence[str] | None = None
) -> None:
    """Load weights as :func:`load_weights` does, into a model that only predicts.

    If the file lacks weights that only training needs, as files in deployment form do, the model is converted to that
    form in place.
    """
    load_stored_for_inference(model, read_weights(path, use_ema), classes)


def load_stored_for_inference(model: nn.Module, stored: StoredWeights, classes: Sequence[str] | None = None) -> None:
    """Load weights as :func:`load_for_inference` does, from a file that has been read already."""
    path, weights = stored.path, to_native_layout(stored, model)
    if has_training_weights(weights, model):
        return _load(model, _for_classes(stored, weights, model, classes, False), path)
    logger.info(f"{path} contains the weights for inference, but not all weights for training")
    inference_weights = match_deployment_form(model, weights)
    _load(model, _for_classes(stored, inference_weights, model, classes, False), path)
    convert_to_deployment_form(model)
    return None


def is_deployed(weights: Mapping[str, Tensor]) -> bool:
    """Return True if weights under native names contain re-parameterized convolutions."""
    return any(".fused." in name for name in weights)


def has_training_weights(weights: Mapping[str, Tensor], model: nn.Module) -> bool:
    """Return True if the weights cover the whole model in training form and contain no re-parameterized
    convolutions."""
    return not is_deployed(weights) and all(
        name in weights or name.endswith("num_batches_tracked") for name in model.state_dict()
    )


def match_deployment_form(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the parts that only training needs, and re-parameterize what a file has re-parameterized, in place.

    RT-DETRv2's code re-parameterizes fewer convolutions than this package.

    Args:
        model: model in training form.
        weights: weights of the file under native names.

    Returns:
        weights without those that only training needs.
    """
    trained = model.state_dict().keys()
    for name, module in list(model.named_modules()):
        _call(module, "remove_training_parts")
        if not hasattr(module, "fused") or f"{name}.fused.weight" in weights:
            _call(module, "reparameterize")
    state = model.state_dict()
    return {name: value for name, value in weights.items() if name in state or name not in trained}


def convert_to_deployment_form(model: nn.Module) -> None:
    """Remove the parts that only training needs, and re-parameterize convolutions, in place.

    Modules do so in their methods ``remove_training_parts`` and ``reparameterize``.
    """
    for module in list(model.modules()):
        _call(module, "remove_training_parts")
        _call(module, "reparameterize")


def _call(module: nn.Module, method: str) -> None:
    getattr(module, method, lambda: None)()


def to_native_layout(stored: StoredWeights, model: nn.Module, quiet: bool = False) -> dict[str, Tensor]:
    """Return weights under the names of ``model``; weights that the model lacks keep their names.

    Args:
        stored: content of the file.
        model: model whose names are used.
        quiet: do not log the format of the file.

    Raises:
        CheckpointError: if a constant that follows from the model's shape differs in the file, or if copies of a tensor
            that the model shares differ.
    """
    weights, state = stored.weights, model.state_dict()
    shared = shared_names(model)
    external_format = None if state.keys() <= weights.keys() else recognize(weights)
    if external_format is None:
        weights = with_current_names(weights)
    else:
        translated, unused = external_format.to_native(weights)
        required = {name for name in state if name not in shared and not name.endswith("num_batches_tracked")}
        if required <= translated.keys():
            external_format.check_constants(weights, model)
        weights = translated | {name: weights[name] for name in unused}
        if not quiet:
            logger.info(f"{stored.path} has the format of {external_format.title}")
    for name, original in shared.items():
        if original in weights and not torch.equal(weights.setdefault(name, weights[original]), weights[original]):
            raise CheckpointError(f"{name} and {original} are one tensor in this model, but differ in {stored.path}")
    # EMA weights also contain the buffers that a model recomputes. Frozen normalization has no batch counters.
    recomputed = {name for name, _ in model.named_buffers()} - state.keys()
    return {
        name: value
        for name, value in weights.items()
        if name in state or not (name in recomputed or name.endswith("num_batches_tracked"))
    }


def stored_num_classes(stored: StoredWeights, layout: Format | None) -> int | None:
    """Return the number of classes of stored weights; None if no tensor shows it.

    Args:
        stored: content of the file.
        layout: layout of the file; None for the native layout.
    """
    return class_names.num_classes(stored.weights if layout is None else layout.to_native(stored.weights)[0])


def stored_classes(stored: StoredWeights) -> Sequence[str] | None:
    """Return the class names that a file contains; None if it has none."""
    if stored.metadata.get("classes"):
        return stored.metadata["classes"]
    labels = stored.config.get("id2label") or {}
    names = [labels[key] for key in sorted(labels, key=int)]
    return None if not names or names[0].startswith("LABEL_") else names


def _for_classes(
    stored: StoredWeights,
    weights: dict[str, Tensor],
    model: nn.Module,
    classes: Sequence[str] | None,
    allow_new: bool,
) -> dict[str, Tensor]:
    """Return weights whose class rows are those of the model."""
    state = model.state_dict()
    checkpoint_count, model_count = class_names.num_classes(weights), class_names.num_classes(state)
    if checkpoint_count is None or model_count is None:
        return weights
    checkpoint_classes = stored_classes(stored)
    if checkpoint_count == model_count and (checkpoint_classes is None or classes is None):
        return weights
    layout = recognize(stored.weights)
    checkpoint_classes, classes = (
        checkpoint_classes or class_names.infer_classes(weights, layout.classes if layout is not None else None),
        classes or class_names.infer_classes(state),
    )
    if checkpoint_classes is None or classes is None or len(classes) != model_count:
        return _without_class_weights(stored.path, weights, state) if allow_new else weights
    rows = class_names.class_rows(checkpoint_classes, classes)
    if rows == list(range(checkpoint_count)) or (
        checkpoint_count == model_count and not any(row is not None for row in rows)
    ):
        return weights
    unknown = [name for name, row in zip(classes, rows, strict=True) if row is None]
    if unknown and not allow_new:
        raise CheckpointError(f"{stored.path} lacks {len(unknown)} of the model's classes: {', '.join(unknown)}")
    class_names.log_class_transfer(stored.path, checkpoint_classes, classes, rows)
    class_agnostic_modules = tuple(n for n, m in model.named_modules() if not getattr(m, "has_class_scores", True))
    return class_names.transfer_class_rows(weights, state, rows, class_agnostic_modules)


def _without_class_weights(path: str, weights: dict[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace weights that depend on the number of classes by the model's initial values."""
    new = {name: value for name, value in state.items() if name in weights and class_names.depends_on_classes(name)}
    logger.warning(
        f"{path} has unnamed classes, which cannot be matched; newly initialized: {', '.join(group_names(new))}"
    )
    return weights | new


def _with_new_heads(path: str, weights: dict[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the initial values of prediction heads, such as for masks, that the weights lack completely."""
    heads = {name.split(".")[2] for name in state if name.startswith(_HEADS)}
    missing = [f"{_HEADS}{head}." for head in sorted(heads)]
    missing = [prefix for prefix in missing if not any(name.startswith(prefix) for name in weights)]
    if missing:
        logger.warning(f"{path} lacks these parts of the model; newly initialized: {', '.join(missing)}")
    return weights | {name: value for name, value in state.items() if name.startswith(tuple(missing))}


def _with_new_keypoints(path: str, weights: dict[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace the parts that depend on the number of keypoints by their initial values if the weights have another
    number of keypoints than the model."""
    stored_count, count = _num_keypoints(weights), _num_keypoints(state)
    if stored_count is None or count is None or stored_count == count:
        return weights
    resized = [name for name, value in state.items() if name in weights and weights[name].shape != value.shape]
    parts = [part for part in _KEYPOINT_PARTS if any(name.startswith(part) for name in resized)]
    logger.warning(
        f"{path} has {stored_count} keypoints, but the model has {count}; newly initialized: {', '.join(parts)}"
    )
    return weights | {name: value for name, value in state.items() if name.startswith(tuple(parts))}


def _num_keypoints(weights: Mapping[str, Tensor]) -> int | None:
    """Return the number of keypoints of a model with these weights; None if it predicts no keypoints."""
    embeddings = (name for name in weights if name.startswith(_KEYPOINT_PARTS) and "point_embedding" in name)
    return next((len(weights[name]) for name in embeddings), None)


def _load(model: nn.Module, weights: Mapping[str, Tensor], path: str) -> None:
    problem = mismatch(path, model.state_dict(), weights)
    if problem is not None:
        raise CheckpointError(problem)
    model.load_state_dict(weights, strict=False)
    logger.info(f"Loaded {len(weights)} tensors from {path}")


def mismatch(path: str, state: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str | None:
    """Return a message with all differences between weights and the state of a model; None if they fit."""
    missing = [name for name in state if name not in weights and not name.endswith("num_batches_tracked")]
    unused = [name for name in weights if name not in state]
    resized = [name for name in state if name in weights and weights[name].shape != state[name].shape]
    if not (missing or unused or resized):
        return None
    lines = [f"checkpoint {path} does not fit the model; check the model's size and family:"]
    lines += [f"  {n} is {tuple(weights[n].shape)} in the file, {tuple(state[n].shape)} in the model" for n in resized]
    lines += [f"  {name} is missing from the file" for name in group_names(missing)]
    lines += [f"  {name} does not exist in the model" for name in group_names(unused)]
    if any(class_names.depends_on_classes(n) and len(weights[n]) != len(state[n]) for n in resized):
        lines.append("  (the number of classes differs; set model.num_classes to that of the checkpoint)")
    return "\n".join(lines)


def resume(checkpointer: DetectionCheckpointer, model: nn.Module, path: str) -> None:
    """Resume from a checkpoint of the run, including optimizer, schedule and iteration.

    Raises:
        CheckpointError: if the checkpoint does not fit the model or the optimizer, or was written by an earlier version of
            this package.
    """
    content = read_checkpoint(path)
    former = [name for name in select_weights(content, use_ema=False) if current_name(name) != name]
    if former:
        # The optimizer state is stored by position, and positions changed with the names.
        raise CheckpointError(
            f"{path} was written by an earlier version of deim ({former[0]} is now {current_name(former[0])}), "
            f"which cannot be resumed: start a new run from its weights, with train.init_checkpoint={path}"
        )
    _check_parameter_groups(checkpointer, content, path)
    load_weights(model, path, use_ema=False)
    checkpointer.load(path)


def _check_parameter_groups(checkpointer: DetectionCheckpointer, content: Mapping[str, Any], path: str) -> None:
    """Compare the parameter groups of the optimizer with those of a checkpoint.

    Raises:
        CheckpointError: if they differ.
    """
    optimizer = getattr(checkpointer.checkpointables.get("trainer"), "optimizer", None)
    stored = content.get("trainer", {}).get("optimizer", {}).get("param_groups")
    if optimizer is None or stored is None:
        return
    sizes, expected = ([len(group["params"]) for group in groups] for groups in (stored, optimizer.param_groups))
    if sizes != expected:
        raise CheckpointError(
            f"{path} cannot be resumed: its optimizer has groups of {sizes} parameters, but that of this run has groups of "
            f"{expected}. Resume with the train.freeze and optimizer.params of the original run, or start a new run from "
            f"its weights, with train.init_checkpoint={path}"
        )
