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
from deim.checkpoint.renaming import grouped, to_native
from deim.errors import CheckpointError

logger = logging.getLogger("detectron2.deim")

# Buffers that a backbone computes itself. A file may lack them, or hold those of another image size. The last two are the
# rotary embeddings of EVA-02.
COMPUTED = ("num_batches_tracked", "relative_position_index", "attn_mask", "freqs_cos", "freqs_sin")
# A tensor name of Caffe2's ResNets, which detectron2 publishes as R-50.pkl.
_CAFFE2 = "conv1_w"
# First components of names that occur in detectors only.
_DETECTOR_PARTS = re.compile(
    r"(encoder|decoder|transformer|input_proj|class_embed|bbox_embed|query_embed|neck|proposal_generator|roi_heads|"
    r"bbox_head|rpn_head|sem_seg_head|head\.cls_convs)\b"
)
# A backbone of another library may have parameters that a classifier lacks, such as a feature pyramid or output norms.
# The file must contain at least this fraction of the tensors of the classifier's network.
_MIN_COVERAGE = 0.75


@dataclass(frozen=True)
class BackboneMatch:
    """Result of matching the tensors of a file with a backbone.

    Attributes:
        weights: {name in the backbone: tensor of the file}, for tensors of equal shape.
        resized: names in the backbone whose tensor has another shape in the file.
        missing: names in the backbone that the file lacks.
        used: names in the file that the backbone has.
        left: names in the file that the backbone lacks.
        outer: prefix of the submodule that the file matches, such as ``net.`` inside a feature pyramid; "" if the file
            matches the whole backbone.
    """

    weights: dict[str, Tensor]
    resized: list[str]
    missing: list[str]
    used: set[str]
    left: list[str]
    outer: str

    @property
    def share(self) -> float:
        """Fraction of the tensors of the ``outer`` module that the file contains, in [0, 1]."""
        found = len(self.weights) + len(self.resized)
        missing = sum(name.startswith(self.outer) for name in self.missing)
        return found / max(found + missing, 1)

    @property
    def has_all_blocks(self) -> bool:
        """True unless the file has more blocks in a stage than the backbone, as a deeper model does."""
        stages = {_stage(name) for name in self.used}
        further = [name for name in self.left if _stage(name) in stages]
        return not any(part.isdigit() for name in further for part in name.removeprefix(_stage(name)).split("."))


def load_backbone_weights(backbone: nn.Module, path: str, fresh: tuple[str, ...] | None = ()) -> None:
    """Load the weights in ``path`` into a backbone and log the tensors it does not use, such as a classifier's.

    Args:
        backbone: backbone of this package, detectron2, detrex or any other library.
        path: a file in any layout of :mod:`deim.checkpoint.formats.backbones`, a file with the backbone's own names,
            or a checkpoint of a whole detector.
        fresh: prefixes of parameters that a classifier does not have. They keep their values if the file lacks
            them. None allows any parameters, up to a quarter of the backbone's tensors.

    Raises:
        CheckpointError: if the file cannot be read or does not fit the backbone.
    """
    load_stored_backbone(backbone, read_weights(path), fresh)


def load_stored_backbone(backbone: nn.Module, stored: StoredWeights, fresh: tuple[str, ...] | None = ()) -> None:
    """Load weights as :func:`load_backbone_weights` does, from a file that has been read already."""
    path = stored.path
    match = match_backbone(backbone, stored.weights, path)
    missing = [name for name in match.missing if fresh is not None and not name.startswith(fresh)]
    too_few = fresh is None and match.share < _MIN_COVERAGE
    wrong = [*match.resized, *missing] or (match.missing if too_few else [])
    if wrong:
        raise CheckpointError(
            f"{path} does not fit this {type(backbone).__name__}: {len(wrong)} of its tensors are missing from the "
            "file or have a different shape:\n  " + "\n  ".join(grouped(wrong))
        )
    if not match.has_all_blocks:
        raise CheckpointError(
            f"{path} belongs to a deeper model than this {type(backbone).__name__}. Tensors without a counterpart:\n  "
            + "\n  ".join(grouped(match.left))
        )
    backbone.load_state_dict(match.weights, strict=False)
    details = [f"unused: {', '.join(grouped(match.left))}" if match.left else ""]
    details.append(f"newly initialized: {', '.join(grouped(match.missing))}" if match.missing else "")
    logger.info("; ".join([f"Loaded the backbone from {path}", *filter(None, details)]))


def match_backbone(backbone: nn.Module, weights: Mapping[str, Tensor], path: str) -> BackboneMatch:
    """Match the tensors of a file with those of a backbone, under the naming that fits best.

    Raises:
        CheckpointError: if the weights belong to a Caffe2 ResNet, whose architecture differs.
    """
    namings = [dict(weights), backbone_weights(weights, path)]
    matches = [_match(backbone.state_dict(), naming) for naming in namings]
    return max(matches, key=lambda match: len(match.weights))


def _match(state: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> BackboneMatch:
    outer = _outer_module(state, weights)
    found = {n: n.removeprefix(outer) for n in state if n.startswith(outer) and n.removeprefix(outer) in weights}
    fitting = {name: weights[there] for name, there in found.items() if weights[there].shape == state[name].shape}
    return BackboneMatch(
        fitting,
        resized=[name for name in found if name not in fitting and not name.endswith(COMPUTED)],
        missing=[name for name in state if name not in found and not name.endswith(COMPUTED)],
        used=set(found.values()),
        left=sorted(name for name in weights.keys() - set(found.values()) if not name.endswith(COMPUTED)),
        outer=outer,
    )


def _outer_module(state: Iterable[str], weights: Mapping[str, Tensor]) -> str:
    """Return the prefix, such as ``net.`` or ``bottom_up.``, whose removal matches most names; "" for none."""
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
        CheckpointError: if the weights belong to a Caffe2 ResNet, whose architecture differs.
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
    return match.share >= _MIN_COVERAGE / 2 or any(one.recognizes(weights) for one in BACKBONE_FORMATS)


def backbone_weights(weights: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    """Return backbone weights under our names, taken from a backbone or detector file; unknown names are kept.

    Raises:
        CheckpointError: if the weights belong to a Caffe2 ResNet, whose architecture differs.
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
    found = next((one for one in BACKBONE_FORMATS if one.recognizes(weights)), None)
    if found is None:
        return dict(weights)
    translated, left_over = to_native(weights, found.rules)
    return translated | {name: weights[name] for name in left_over}


def unfreeze(backbone: nn.Module) -> list[str]:
    """Make all frozen parts of a backbone trainable, in place.

    Parameters require gradients, and frozen normalization becomes batch normalization with the same values.

    Returns:
        names of the modules and parameters that were frozen.
    """
    thawed = [name for name, parameter in backbone.named_parameters() if not parameter.requires_grad]
    backbone.requires_grad_(True)
    for name, module in list(backbone.named_modules()):
        if type(module).__name__ == "FrozenBatchNorm2d":
            thawed.append(name)
            parent = backbone.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], _batch_norm(module))
    return thawed


def _batch_norm(frozen: nn.Module) -> nn.BatchNorm2d:
    """Return a batch normalization with the values of a frozen one."""
    values: Iterable[tuple[str, Tensor]] = frozen.state_dict().items()
    kept = {name: value for name, value in values if name != "num_batches_tracked"}
    norm = nn.BatchNorm2d(len(kept["weight"]), eps=getattr(frozen, "eps", 1e-5), device=kept["weight"].device)
    with torch.no_grad():
        norm.load_state_dict(kept, strict=False)
    return norm
