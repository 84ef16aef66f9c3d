"""Renamed config keys. The former names still work, with a deprecation warning."""

import itertools
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import OmegaConf

from deim.config.building import accepts
from deim.errors import ConfigError
from deim.modeling.losses.former_arguments import FORMER_ARGUMENTS, former_value, translate_former_arguments

logger = logging.getLogger("detectron2.deim")

_SPLITS = ("train", "test")
_CRITERION = "model.criterion"

# Node of the config -> {former key: present key}.
_RENAMED_KEYS: dict[str, dict[str, str]] = {
    "train": {
        "non_finite_steps_allowed": "max_non_finite_steps",
        "reference_images": "reference_dataset_size",
        "warn_of_plateau": "plateau_warning",
    },
    "optimizer.params.rules": {"undecayed": "no_weight_decay"},
    "dataloader.train": {
        "image_cache_gigabytes": "image_cache_gb",
        "unreadable_images_allowed": "max_unreadable_images",
    },
    "dataloader.train.mapper": {"always": "weak", "colour": "color"},
    **{
        f"dataloader.{split}.dataset": {
            "name": "names",
            "problems_allowed": "max_invalid_records",
            "evaluated": "held_out",
            "every": "every_nth",
            "whole": "full_name",
        }
        for split in _SPLITS
    },
}


# Former path of a dataset reader -> present path.
_RENAMED_TARGETS = {"deim.data.datasets.held_out.held_out_part": "deim.data.datasets.holdout.holdout_split"}


def current_key(cfg: Any, key: str) -> str:
    """Return the present name of a key on the command line. Log a warning if ``key`` is a former name.

    Args:
        cfg: config that the key belongs to.
        key: dotted key, such as ``dataloader.train.dataset.name``.
    """
    for path, renamed_keys in _RENAMED_KEYS.items():
        for former, present in renamed_keys.items():
            prefix = f"{path}.{former}"
            if (key == prefix or key.startswith(f"{prefix}.")) and all(
                _is_renamed(node, former, present) for node in itertools.islice(_nodes(cfg, path), 1)
            ):
                _warn(path, former, present)
                return f"{path}.{present}{key[len(prefix) :]}"
    return key


def rename_former_keys(cfg: Any) -> None:
    """Rename the former keys of a config in place, for example of one saved by an earlier version.

    A value under a former key replaces the value under the present key, which is the default of the base config. The
    former paths of dataset readers are replaced as well.
    """
    for split in _SPLITS:
        for node in _nodes(cfg, f"dataloader.{split}.dataset"):
            target = node.get("_target_")
            if isinstance(target, str) and target in _RENAMED_TARGETS:
                node["_target_"] = _RENAMED_TARGETS[target]
    for path, renamed_keys in _RENAMED_KEYS.items():
        for node in _nodes(cfg, path):
            for former, present in renamed_keys.items():
                if former in node and _is_renamed(node, former, present):
                    _rename(node, former, present)
                    _warn(path, former, present)
    _warn_about_criterion(replace_former_loss_keys(OmegaConf.select(cfg, _CRITERION, default=None)))
    evaluator = OmegaConf.select(cfg, "dataloader.evaluator", default=None)
    if OmegaConf.is_dict(evaluator) and OmegaConf.is_interpolation(evaluator, "dataset_name"):
        reference = str(evaluator._get_node("dataset_name")._value())
        if reference.endswith(".test.dataset.name}"):
            evaluator.dataset_name = reference.replace("dataset.name}", "dataset.names}")


@contextmanager
def former_criterion_key(cfg: Any, key: str) -> Iterator[None]:
    """Provide a former key of the criterion, such as ``model.criterion.weights``, while an override sets it.

    At the end, the key is replaced by the present keys.

    Args:
        cfg: a config, modified in place.
        key: dotted key of the override; other keys have no effect.

    Raises:
        ConfigError: if the override names an unknown loss.
    """
    *parents, name = key.split(".")[:3]
    criterion = OmegaConf.select(cfg, _CRITERION, default=None)
    if ".".join(parents) != _CRITERION or name not in FORMER_ARGUMENTS or not _accepts_losses(criterion):
        yield
        return
    criterion[name] = former_value(criterion.get("losses") or {}, name)
    yield
    _warn_about_criterion(replace_former_loss_keys(criterion))


def replace_former_loss_keys(criterion: Any) -> list[str]:
    """Replace the former keys of a criterion's node by ``losses``, in place.

    See :func:`deim.modeling.losses.former_arguments.translate_former_arguments`.

    Args:
        criterion: node of a criterion, or None. Nodes of other criteria are not modified.

    Returns:
        former keys that have been replaced.

    Raises:
        ConfigError: if the node names an unknown loss.
    """
    if not _accepts_losses(criterion):
        return []
    try:
        return translate_former_arguments(criterion)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{_CRITERION} of the config: {error}") from error


def _accepts_losses(criterion: Any) -> bool:
    """Return True if the target of a node is this project's criterion, or has the same arguments."""
    return OmegaConf.is_dict(criterion) and "_target_" in criterion and _is_renamed(criterion, "weights", "losses")


def _warn_about_criterion(former_keys: Iterable[str]) -> None:
    for former in former_keys:
        _warn(_CRITERION, former, FORMER_ARGUMENTS[former])


def _nodes(cfg: Any, path: str) -> Iterator[Any]:
    """Yield the node at ``path``. For a holdout split, also yield its key ``dataset``, the node of the full dataset."""
    node = OmegaConf.select(cfg, path, default=None)
    while OmegaConf.is_dict(node):
        yield node
        node = node.get("dataset") if path.endswith(".dataset") else None


def _is_renamed(node: Any, former: str, present: str) -> bool:
    """Return True unless the target of a node, such as a user's own function, has other arguments than this project's."""
    target = node.get("_target_")
    return target is None or (accepts(target, present) and not accepts(target, former))


def _rename(node: Any, former: str, present: str) -> None:
    """Rename a key of a node. The position of the key is kept, because the order of optimizer rules matters."""
    items = {key: node._get_node(key) for key in node}
    value = items[former]
    if OmegaConf.is_interpolation(node, former):
        # The reference may name the same key of the enclosing node, such as "${..problems_allowed}".
        value = value._value().replace(f".{former}}}", f".{present}}}")
    replaced_key = present if present in items else former
    items[replaced_key] = value
    for key in list(node):
        del node[key]
    for key, item in items.items():
        if key == replaced_key:
            node[present] = item
        elif key != former:
            node[key] = item


def _warn(path: str, former: str, present: str) -> None:
    logger.warning(f"The config key {path}.{former} is deprecated: it has been renamed to {path}.{present}")
