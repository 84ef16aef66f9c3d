"""Weights of a backbone that was trained to classify, or inside of a detector."""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deim.checkpoint.formats import recognise
from deim.checkpoint.formats.backbones import BACKBONE_FORMATS
from deim.checkpoint.reading import Stored, read_weights
from deim.checkpoint.renaming import grouped, to_ours
from deim.errors import CheckpointError

logger = logging.getLogger("detectron2.deim")

# Buffers that a backbone computes by itself. Files may lack them, or hold those of another image size: the last two are
# the rotary embeddings of EVA-02.
COMPUTED = ("num_batches_tracked", "relative_position_index", "attn_mask", "freqs_cos", "freqs_sin")
# The ResNets of Caffe2, which detectron2 also has as R-50.pkl.
_CAFFE2 = "conv1_w"
# First parts of names that only detectors have.
_DETECTOR_PARTS = re.compile(
    r"(encoder|decoder|transformer|input_proj|class_embed|bbox_embed|query_embed|neck|proposal_generator|roi_heads|"
    r"bbox_head|rpn_head|sem_seg_head|head\.cls_convs)\b"
)
# A backbone of another library may have parameters that a classifier lacks, such as a feature pyramid or norms of
# features. At least this share of the tensors of the classifier's network must be in the file.
_MIN_SHARE = 0.75


@dataclass(frozen=True)
class BackboneMatch:
    """How the tensors of a file fit a backbone.

    Attributes:
        weights: {name in the backbone: tensor of the file}, those of equal shape.
        resized: names in the backbone whose tensor in the file has another shape.
        missing: names in the backbone that the file lacks.
        used: names in the file that the backbone has.
        left: names in the file that the backbone lacks.
        outer: prefix of the module that the file is of, such as ``net.`` inside of a feature pyramid; "" for all.
    """

    weights: dict[str, Tensor]
    resized: list[str]
    missing: list[str]
    used: set[str]
    left: list[str]
    outer: str

    @property
    def share(self) -> float:
        """The share of the tensors of the ``outer`` module that the file has, in [0, 1]."""
        found = len(self.weights) + len(self.resized)
        missing = sum(name.startswith(self.outer) for name in self.missing)
        return found / max(found + missing, 1)

    @property
    def is_whole_stage(self) -> bool:
        """Whether the file has no further blocks in a stage that the backbone has, as that of a deeper model would."""
        stages = {_stage(name) for name in self.used}
        further = [name for name in self.left if _stage(name) in stages]
        return not any(part.isdigit() for name in further for part in name.removeprefix(_stage(name)).split("."))


def load_backbone_weights(backbone: nn.Module, path: str, fresh: tuple[str, ...] | None = ()) -> None:
    """Load the weights in ``path`` into a backbone, and log what the backbone has no place for, such as a classifier.

    Args:
        backbone: of this package, detectron2, detrex or any other library.
        path: a file of any layout in :mod:`deim.checkpoint.formats.backbones`, under the backbone's own names, or with
            the weights of a whole detector.
        fresh: prefixes of parameters that a classifier does not have. They keep their values if the file lacks
            them. None allows any, up to a quarter of the backbone's tensors.

    Raises:
        CheckpointError: the file cannot be read, or does not fit the backbone.
    """
    load_stored_backbone(backbone, read_weights(path), fresh)


def load_stored_backbone(backbone: nn.Module, stored: Stored, fresh: tuple[str, ...] | None = ()) -> None:
    """:func:`load_backbone_weights` of a file that has been read already."""
    path = stored.path
    match = match_backbone(backbone, stored.weights, path)
    missing = [name for name in match.missing if fresh is not None and not name.startswith(fresh)]
    too_few = fresh is None and match.share < _MIN_SHARE
    wrong = [*match.resized, *missing] or (match.missing if too_few else [])
    if wrong:
        raise CheckpointError(
            f"{path} does not fit this {type(backbone).__name__}: {len(wrong)} of its tensors are missing in the file "
            "or have another shape:\n  " + "\n  ".join(grouped(wrong))
        )
    if not match.is_whole_stage:
        raise CheckpointError(
            f"{path} is of a deeper model than this {type(backbone).__name__}. The backbone has no place for\n  "
            + "\n  ".join(grouped(match.left))
        )
    backbone.load_state_dict(match.weights, strict=False)
    details = [f"without {', '.join(grouped(match.left))}" if match.left else ""]
    details.append(f"newly initialized: {', '.join(grouped(match.missing))}" if match.missing else "")
    logger.info("; ".join([f"Loaded the backbone from {path}", *filter(None, details)]))


def match_backbone(backbone: nn.Module, weights: Mapping[str, Tensor], path: str) -> BackboneMatch:
    """Match the tensors of a file with those of a backbone, by whichever naming fits best.

    Raises:
        CheckpointError: the weights are of Caffe2's ResNets, which are built differently.
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
    """The prefix, such as ``net.`` or ``bottom_up.``, without which most names are those of the file; "" for none."""
    names = list(state)
    prefixes = {"", *(".".join(name.split(".")[:depth]) + "." for name in names for depth in (1, 2))}
    return max(
        sorted(prefixes),
        key=lambda prefix: sum(n.removeprefix(prefix) in weights for n in names if n.startswith(prefix)),
    )


def _stage(name: str) -> str:
    """The stage that a tensor belongs to, such as ``res4`` or ``layers.2``."""
    first, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    return f"{first}.{number}" if number.isdigit() and not first[-1:].isdigit() else first


def holds_backbone(model: nn.Module, weights: Mapping[str, Tensor], path: str) -> bool:
    """Whether a file holds the backbone of ``model`` alone, and not a whole detector.

    Raises:
        CheckpointError: the weights are of Caffe2's ResNets, which are built differently.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module) or recognise(weights) is not None:
        return False
    others = {name for name in model.state_dict() if not name.startswith("backbone.")}
    if any(name in others or _DETECTOR_PARTS.match(name) for name in weights):
        return False
    return _looks_like_backbone(backbone, weights, path)


def _looks_like_backbone(backbone: nn.Module, weights: Mapping[str, Tensor], path: str) -> bool:
    match = match_backbone(backbone, weights, path)
    return match.share >= _MIN_SHARE / 2 or any(one.recognises(weights) for one in BACKBONE_FORMATS)


def backbone_weights(weights: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    """Return the weights of a backbone, or of the backbone of a detector, under our names; others keep theirs.

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


def thaw(backbone: nn.Module) -> list[str]:
    """Make everything in a backbone learn that is frozen, in place.

    Parameters get gradients, and frozen normalization becomes batch normalization with the same values.

    Returns:
        the names of the modules and parameters that were frozen.
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
    """Batch normalization with the values of a frozen one."""
    values: Iterable[tuple[str, Tensor]] = frozen.state_dict().items()
    kept = {name: value for name, value in values if name != "num_batches_tracked"}
    norm = nn.BatchNorm2d(len(kept["weight"]), eps=getattr(frozen, "eps", 1e-5), device=kept["weight"].device)
    with torch.no_grad():
        norm.load_state_dict(kept, strict=False)
    return norm
