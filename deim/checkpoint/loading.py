"""Loading weights of any layout into a model, saying clearly what does not fit."""

import logging
from collections.abc import Mapping, Sequence

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from deim.checkpoint import classes as class_names
from deim.checkpoint.formats import Format, recognize
from deim.checkpoint.formats.format import shared_names
from deim.checkpoint.layouts import present_name, with_present_names
from deim.checkpoint.reading import Stored, read_checkpoint, read_weights, weights_of
from deim.checkpoint.renaming import grouped
from deim.errors import CheckpointError

logger = logging.getLogger("detectron2.deim")


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
        use_ema: take the averaged weights where the checkpoint has them.
        allow_other_classes: for fine-tuning: classes that the checkpoint does not have keep their initial values.
        classes: names of the model's; weights of a class are found by its name, where the checkpoint says or its
            number of classes tells what it is of.

    Raises:
        CheckpointError: the checkpoint is of another model; names every parameter that does not fit.
    """
    load_stored_weights(model, read_weights(path, use_ema), allow_other_classes=allow_other_classes, classes=classes)


def load_stored_weights(
    model: nn.Module, stored: Stored, *, allow_other_classes: bool = False, classes: Sequence[str] | None = None
) -> None:
    """:func:`load_weights` of a file that has been read already."""
    module = model.module if isinstance(model, DistributedDataParallel) else model
    weights = in_our_layout(stored, module)
    if is_deployed(weights):
        raise CheckpointError(
            f"{stored.path} holds a model in the form for deployment, which cannot be trained: start from the training form"
        )
    _load(module, _for_classes(stored, weights, module, classes, allow_other_classes), stored.path)


def load_for_inference(
    model: nn.Module, path: str, *, use_ema: bool = True, classes: Sequence[str] | None = None
) -> None:
    """:func:`load_weights` for a model that will only predict; weights of no more than prediction needs, such as those
    in the form for deployment, bring the model into that form, in place."""
    load_stored_for_inference(model, read_weights(path, use_ema), classes)


def load_stored_for_inference(model: nn.Module, stored: Stored, classes: Sequence[str] | None = None) -> None:
    """:func:`load_for_inference` of what has been read already."""
    path, weights = stored.path, in_our_layout(stored, model)
    if can_be_trained(weights, model):
        return _load(model, _for_classes(stored, weights, model, classes, False), path)
    logger.info(f"{path} holds what prediction needs, and not all that training needs")
    kept = deploy_as(model, weights)
    _load(model, _for_classes(stored, kept, model, classes, False), path)
    reparameterize(model)
    return None


def is_deployed(weights: Mapping[str, Tensor]) -> bool:
    """Whether weights under our names are of a model whose convolutions are re-parameterised."""
    return any(".fused." in name for name in weights)


def can_be_trained(weights: Mapping[str, Tensor], model: nn.Module) -> bool:
    """Whether there are weights for all of a model in the form for training, and none of re-parameterised
    convolutions."""
    return not is_deployed(weights) and all(
        name in weights or name.endswith("num_batches_tracked") for name in model.state_dict()
    )


def deploy_as(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring a model into the form for deployment as far as weights are, in place: RT-DETRv2's code re-parameterises
    fewer convolutions than we do.

    Returns:
        the weights without what only training needs, which may still be there.
    """
    trained = model.state_dict().keys()
    for name, module in list(model.named_modules()):
        if not hasattr(module, "fused") or f"{name}.fused.weight" in weights:
            _reparameterize(module)
    state = model.state_dict()
    return {name: value for name, value in weights.items() if name in state or name not in trained}


def reparameterize(model: nn.Module) -> None:
    """Bring a model into the form for deployment, in place."""
    for module in list(model.modules()):
        _reparameterize(module)


def _reparameterize(module: nn.Module) -> None:
    drop = getattr(module, "reparameterize", None)
    if drop is not None:
        drop()


def in_our_layout(stored: Stored, model: nn.Module, quiet: bool = False) -> dict[str, Tensor]:
    """Weights under the names of ``model``; those that have no place there keep their names.

    Args:
        quiet: do not say in the log what the file is.

    Raises:
        CheckpointError: a value that follows from the shape of the model is another in the file, or what is one
            tensor in the model is several there.
    """
    weights, state = stored.weights, model.state_dict()
    shared = shared_names(model)
    format_there = None if state.keys() <= weights.keys() else recognize(weights)
    if format_there is None:
        weights = with_present_names(weights)
    else:
        translated, left_over = format_there.to_ours(weights)
        needed = {name for name in state if name not in shared and not name.endswith("num_batches_tracked")}
        if needed <= translated.keys():
            format_there.check_constants(weights, model)
        weights = translated | {name: weights[name] for name in left_over}
        if not quiet:
            logger.info(f"{stored.path} is of {format_there.title}")
    for name, original in shared.items():
        if original in weights and not torch.equal(weights.setdefault(name, weights[original]), weights[original]):
            raise CheckpointError(f"{name} and {original} are one tensor in this model, but differ in {stored.path}")
    # Averages also hold the buffers that a model makes anew; frozen normalization counts no batches.
    made_anew = {name for name, _ in model.named_buffers()} - state.keys()
    return {
        name: value
        for name, value in weights.items()
        if name in state or not (name in made_anew or name.endswith("num_batches_tracked"))
    }


def stored_num_classes(stored: Stored, layout: Format | None) -> int | None:
    """How many classes the model in a file of this layout (None for ours) tells apart; None if no tensor says so."""
    return class_names.num_classes(stored.weights if layout is None else layout.to_ours(stored.weights)[0])


def stored_classes(stored: Stored) -> Sequence[str] | None:
    """The classes that a file says its weights are of."""
    if stored.metadata.get("classes"):
        return stored.metadata["classes"]
    labels = stored.config.get("id2label") or {}
    names = [labels[key] for key in sorted(labels, key=int)]
    return None if not names or names[0].startswith("LABEL_") else names


def _for_classes(
    stored: Stored,
    weights: dict[str, Tensor],
    model: nn.Module,
    classes: Sequence[str] | None,
    allow_new: bool,
) -> dict[str, Tensor]:
    """Weights whose rows are the model's classes."""
    state = model.state_dict()
    count, wanted = class_names.num_classes(weights), class_names.num_classes(state)
    if count is None or wanted is None:
        return weights
    found = stored_classes(stored)
    if count == wanted and (found is None or classes is None):
        return weights
    found, classes = found or class_names.known_classes(weights), classes or class_names.known_classes(state)
    if found is None or classes is None or len(classes) != wanted:
        return _without_class_parts(stored.path, weights, state) if allow_new else weights
    rows = class_names.class_rows(found, classes)
    if rows == list(range(count)) or (count == wanted and not any(row is not None for row in rows)):
        return weights
    unknown = [name for name, row in zip(classes, rows, strict=True) if row is None]
    if unknown and not allow_new:
        raise CheckpointError(f"{stored.path} does not know {len(unknown)} of the classes: {', '.join(unknown)}")
    class_names.report(stored.path, found, classes, rows)
    by_place = tuple(n for n, m in model.named_modules() if not getattr(m, "scores_are_of_classes", True))
    return class_names.with_rows(weights, state, rows, by_place)


def _without_class_parts(path: str, weights: dict[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with the model's own initial values for what depends on the number of classes."""
    new = {name: value for name, value in state.items() if name in weights and class_names.depends_on_classes(name)}
    logger.warning(f"{path} has other classes, and does not say which; newly initialized: {', '.join(grouped(new))}")
    return weights | new


def _load(model: nn.Module, weights: Mapping[str, Tensor], path: str) -> None:
    problem = mismatch(path, model.state_dict(), weights)
    if problem is not None:
        raise CheckpointError(problem)
    model.load_state_dict(weights, strict=False)
    logger.info(f"Loaded {len(weights)} tensors from {path}")


def mismatch(path: str, state: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str | None:
    """Everything in which weights differ from what a model holds, for a message; None if they fit."""
    missing = [name for name in state if name not in weights and not name.endswith("num_batches_tracked")]
    left_over = [name for name in weights if name not in state]
    resized = [name for name in state if name in weights and weights[name].shape != state[name].shape]
    if not (missing or left_over or resized):
        return None
    lines = [f"checkpoint {path} does not fit the model: is it of another size or another family?"]
    lines += [f"  {n} is {tuple(weights[n].shape)} there and {tuple(state[n].shape)} here" for n in resized]
    lines += [f"  {name} is not in it" for name in grouped(missing)]
    lines += [f"  {name} has no place in the model" for name in grouped(left_over)]
    if any(class_names.depends_on_classes(name) for name in resized):
        lines.append("  (the number of classes differs; set model.num_classes to that of the checkpoint)")
    return "\n".join(lines)


def resume(checkpointer: DetectionCheckpointer, model: nn.Module, path: str) -> None:
    """Continue from a checkpoint of the run, everything included.

    Raises:
        CheckpointError: it does not fit the model, or an earlier version of this package wrote it.
    """
    former = [name for name in weights_of(read_checkpoint(path), use_ema=False) if present_name(name) != name]
    if former:
        # The optimizer's state is kept by position, and positions have changed with the names.
        raise CheckpointError(
            f"{path} was written by an earlier version of deim ({former[0]} is now {present_name(former[0])}), "
            f"which cannot be resumed: start a new run from its weights, with train.init_checkpoint={path}"
        )
    load_weights(model, path, use_ema=False)
    checkpointer.load(path)
