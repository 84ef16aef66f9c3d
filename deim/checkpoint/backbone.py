"""Loading of backbone weights from classification checkpoints or whole detectors."""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deim.checkpoint.formats import recognize
from deim.checkpoint.formats.backbones import BACKBONE_FORMATS
from deim.checkpoint.reading import StoredWeights, read_weights
from deim.checkpoint.renaming import group_names, to_native
from deim.errors import CheckpointError

logger = logging.getLogger("detectron2.deim")

# Buffers that a backbone computes itself. A file may lack them, or hold those of another image size.
# "freqs_cos" and "freqs_sin" are the rotary embeddings of EVA-02; the last two belong to DINOv3.
COMPUTED_BUFFERS = (
    "num_batches_tracked",
    "relative_position_index",
    "attn_mask",
    "freqs_cos",
    "freqs_sin",
    "rope_embed.periods",
    "qkv.bias_mask",
)
# A tensor name of Caffe2's ResNets, which detectron2 publishes as R-50.pkl.
_CAFFE2 = "conv1_w"
# First components of names that occur in detectors only.
_DETECTOR_PARTS = re.compile(
    r"(encoder|decoder|transformer|input_proj|class_embed|bbox_embed|query_embed|neck|proposal_generator|roi_heads|"
    r"bbox_head|rpn_head|sem_seg_head|head\.cls_convs)\b"
)
# A backbone of another library may have parameters that a classifier lacks, such as a feature pyramid or output norms.
# The file must contain at least this fraction of the tensors of the submodule that it matches.
_MIN_COVERAGE = 0.75


@dataclass(frozen=True)
class BackboneMatch:
    """Result of matching the tensors of a file with a backbone.

    Attributes:
        weights: {name in the backbone: tensor of the file}, for tensors of equal shape.
        mismatched_shapes: names in the backbone whose tensor has another shape in the file.
        missing: names in the backbone that the file lacks.
        matched: names in the file that the backbone has.
        unused: names in the file that the backbone lacks.
        prefix: prefix of the submodule that the file matches, such as ``net.`` inside a feature pyramid; "" if the file
            matches the whole backbone.
    """

    weights: dict[str, Tensor]
    mismatched_shapes: list[str]
    missing: list[str]
    matched: set[str]
    unused: list[str]
    prefix: str

    @property
    def coverage(self) -> float:
        """Fraction of the tensors of the ``prefix`` module that the file contains, in [0, 1]."""
        num_matched = len(self.weights) + len(self.mismatched_shapes)
        num_missing = sum(name.startswith(self.prefix) for name in self.missing)
        return num_matched / max(num_matched + num_missing, 1)

    @property
    def agreement(self) -> float:
        """Fraction of the tensors in both the backbone and the file whose shapes are equal, in [0, 1]."""
        return len(self.weights) / max(len(self.weights) + len(self.mismatched_shapes), 1)

    @property
    def has_extra_blocks(self) -> bool:
        """True if the file has more blocks in a stage than the backbone, as a deeper model does."""
        stages = {_stage(name) for name in self.matched}
        unused_in_stages = [name for name in self.unused if _stage(name) in stages]
        return any(part.isdigit() for name in unused_in_stages for part in name.removeprefix(_stage(name)).split("."))


def load_backbone_weights(
    backbone: nn.Module, path: str, allowed_missing: tuple[str, ...] | None = (), reduced: bool = False
) -> None:
    """Load the weights in ``path`` into a backbone, and log the tensors of the file that the backbone lacks.

    Such tensors are those of a classification head, for example.

    Args:
        backbone: backbone of this package, detectron2, detrex or any other library.
        path: a file in any layout of :mod:`deim.checkpoint.formats.backbones`, a file with the backbone's own names,
            or a checkpoint of a whole detector.
        allowed_missing: prefixes of parameters that a classifier does not have. They keep their values if the file
            lacks them. With None, the file may lack any parameters, but not more than a quarter of the tensors of the
            submodule that it matches.
        reduced: the backbone may be a reduced form of the file's: with fewer blocks, and with up to a quarter of its
            tensors in another shape, which keep their values.

    Raises:
        CheckpointError: if the file cannot be read or does not fit the backbone.
    """
    load_stored_backbone(backbone, read_weights(path), allowed_missing, reduced)


def load_stored_backbone(
    backbone: nn.Module, stored: StoredWeights, allowed_missing: tuple[str, ...] | None = (), reduced: bool = False
) -> None:
    """Load weights as :func:`load_backbone_weights` does, from a file that has been read already."""
    path = stored.path
    match = match_backbone(backbone, stored.weights, path)
    missing = [name for name in match.missing if allowed_missing is not None and not name.startswith(allowed_missing)]
    too_few = allowed_missing is None and match.coverage < _MIN_COVERAGE
    tolerated = match.mismatched_shapes if reduced and match.agreement >= _MIN_COVERAGE else []
    mismatched = [] if tolerated else match.mismatched_shapes
    wrong = [*mismatched, *missing] or (match.missing if too_few else [])
    if wrong:
        raise CheckpointError(
            f"{path} does not fit this {type(backbone).__name__}: {len(wrong)} of the backbone's tensors are "
            "missing from the file or have a different shape:\n  " + "\n  ".join(group_names(wrong))
        )
    if match.has_extra_blocks and not reduced:
        raise CheckpointError(
            f"{path} belongs to a deeper model than this {type(backbone).__name__}. Tensors without a counterpart:\n  "
            + "\n  ".join(group_names(match.unused))
        )
    backbone.load_state_dict(match.weights, strict=False)
    details = [f"unused: {', '.join(group_names(match.unused))}" if match.unused else ""]
    initialized = [*match.missing, *tolerated]
    details.append(f"newly initialized: {', '.join(group_names(initialized))}" if initialized else "")
    logger.info("; ".join([f"Loaded the backbone from {path}", *filter(None, details)]))


def match_backbone(backbone: nn.Module, weights: Mapping[str, Tensor], path: str) -> BackboneMatch:
    """Match the tensors of a file with those of a backbone, under the file's names or native names.

    Of these names, those that fit the most tensors are used. A backbone whose weights are published under other names states them in
    the class attribute ``weight_rules``: a sequence of :class:`~deim.checkpoint.renaming.Rule`.

    Raises:
        CheckpointError: if the weights belong to a Caffe2 ResNet, whose architecture differs from torchvision's.
    """
    native = backbone_weights(weights, path)
    candidates = [dict(weights), native, native_backbone_weights(backbone, weights, native)]
    matches = [_match(backbone.state_dict(), candidate) for candidate in candidates]
    return max(matches, key=lambda match: len(match.weights))


def _match(state: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> BackboneMatch:
    prefix = _best_prefix(state, weights)
    file_names = {
        n: n.removeprefix(prefix) for n in state if n.startswith(prefix) and n.removeprefix(prefix) in weights
    }
    weights_that_fit = {
        name: weights[file_name]
        for name, file_name in file_names.items()
        if weights[file_name].shape == state[name].shape
    }
    return BackboneMatch(
        weights_that_fit,
        mismatched_shapes=[
            name for name in file_names if name not in weights_that_fit and not name.endswith(COMPUTED_BUFFERS)
        ],
        missing=[name for name in state if name not in file_names and not name.endswith(COMPUTED_BUFFERS)],
        matched=set(file_names.values()),
        unused=sorted(
            name for name in weights.keys() - set(file_names.values()) if not name.endswith(COMPUTED_BUFFERS)
        ),
        prefix=prefix,
    )


def _best_prefix(state: Iterable[str], weights: Mapping[str, Tensor]) -> str:
    """Return the prefix whose removal from the backbone's names gives the most names of the file.

    Examples are ``net.`` and ``bottom_up.``; "" if removing a prefix does not help.
    """
    names = list(state)
    prefixes = {"", *(".".join(name.split(".")[:depth]) + "." for name in names for depth in (1, 2))}
    return max(
        sorted(prefixes),
        key=lambda prefix: sum(n.removeprefix(prefix) in weights for n in names if n.startswith(prefix)),
    )


def _stage(name: str) -> str:
    """Return the stage of a tensor, such as ``res4`` or ``layers.2``."""
    first, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    return f"{first}.{number}" if number.isdigit() and not first[-1:].isdigit() else first


def is_backbone_checkpoint(model: nn.Module, weights: Mapping[str, Tensor], path: str) -> bool:
    """Return True if a file contains only the backbone of ``model`` and not a whole detector.

    Raises:
        CheckpointError: if the weights belong to a Caffe2 ResNet, whose architecture differs from torchvision's.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module) or recognize(weights) is not None:
        return False
    others = {name for name in model.state_dict() if not name.startswith("backbone.")}
    if any(name in others or _DETECTOR_PARTS.match(name) for name in weights):
        return False
    return _looks_like_backbone(backbone, weights, path)


def _looks_like_backbone(backbone: nn.Module, weights: Mapping[str, Tensor], path: str) -> bool:
    match = match_backbone(backbone, weights, path)
    # Half of the fraction: a backbone of another size counts as a backbone, so that loading it reports the difference.
    return match.coverage >= _MIN_COVERAGE / 2 or any(layout.recognizes(weights) for layout in BACKBONE_FORMATS)


def backbone_weights(weights: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    """Return backbone weights under native names, taken from a backbone or detector file; unknown names are kept.

    Raises:
        CheckpointError: if the weights belong to a Caffe2 ResNet, whose architecture differs from torchvision's.
    """
    if _CAFFE2 in weights:
        raise CheckpointError(
            f"{path} is a ResNet of Caffe2, which has its strides in different convolutions and expects BGR images; "
            "use torchvision's ResNet instead: detectron2://ImageNetPretrained/torchvision/R-50.pkl"
        )
    detector = recognize(weights)
    if detector is not None:
        weights, _ = detector.to_native(weights)
    if any(name.startswith("backbone.") for name in weights):
        return {n.removeprefix("backbone."): v for n, v in weights.items() if n.startswith("backbone.")}
    layout = next((candidate for candidate in BACKBONE_FORMATS if candidate.recognizes(weights)), None)
    if layout is None:
        return dict(weights)
    translated, left_over = layout.to_native(weights)
    return translated | {name: weights[name] for name in left_over}


def native_backbone_weights(
    backbone: nn.Module, weights: Mapping[str, Tensor], native: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """Return the weights of a file under the names that the backbone's ``weight_rules`` give.

    Args:
        backbone: any backbone.
        weights: content of the file.
        native: result of :func:`backbone_weights`, returned for a backbone without rules.
    """
    rules = getattr(backbone, "weight_rules", None)
    if rules is None:
        return native
    translated, left_over = to_native(weights, rules)
    return translated | {name: weights[name] for name in left_over}


def unfreeze(backbone: nn.Module) -> list[str]:
    """Make all frozen parts of a backbone trainable, in place.

    Parameters require gradients, and frozen normalization becomes batch normalization with the same values.

    Returns:
        names of the modules and parameters that were frozen.
    """
    unfrozen = [name for name, parameter in backbone.named_parameters() if not parameter.requires_grad]
    backbone.requires_grad_(True)
    for name, module in list(backbone.named_modules()):
        if type(module).__name__ == "FrozenBatchNorm2d":
            unfrozen.append(name)
            parent = backbone.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], _batch_norm(module))
    return unfrozen


def _batch_norm(frozen: nn.Module) -> nn.BatchNorm2d:
    """Return a batch normalization with the values of a frozen one."""
    values: Iterable[tuple[str, Tensor]] = frozen.state_dict().items()
    state = {name: value for name, value in values if name != "num_batches_tracked"}
    norm = nn.BatchNorm2d(len(state["weight"]), eps=getattr(frozen, "eps", 1e-5), device=state["weight"].device)
    with torch.no_grad():
        norm.load_state_dict(state, strict=False)
    return norm
