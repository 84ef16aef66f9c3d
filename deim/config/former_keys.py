"""Renamed config keys. The former names still work, with a deprecation warning."""

import logging
from collections.abc import Iterator
from typing import Any

from omegaconf import OmegaConf

from deim.config.building import accepts

logger = logging.getLogger("detectron2.deim")

_SPLITS = ("train", "test")

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


def current_key(key: str) -> str:
    """Return the present name of a key on the command line. Log a warning if ``key`` is a former name.

    Args:
        key: dotted key, such as ``dataloader.train.dataset.name``.
    """
    for path, renamed_keys in _RENAMED_KEYS.items():
        for former, present in renamed_keys.items():
            prefix = f"{path}.{former}"
            if key == prefix or key.startswith(f"{prefix}."):
                _warn(path, former, present)
                return f"{path}.{present}{key[len(prefix) :]}"
    return key


def rename_former_keys(cfg: Any) -> None:
    """Rename the former keys of a config in place, for example of one saved by an earlier version.

    A value under a former key replaces the value under the present key, which is the default of the base config.
    """
    for path, renamed_keys in _RENAMED_KEYS.items():
        for node in _nodes(cfg, path):
            for former, present in renamed_keys.items():
                if former in node and _is_renamed(node, former, present):
                    _rename(node, former, present)
                    _warn(path, former, present)
    evaluator = OmegaConf.select(cfg, "dataloader.evaluator", default=None)
    if OmegaConf.is_dict(evaluator) and OmegaConf.is_interpolation(evaluator, "dataset_name"):
        reference = str(evaluator._get_node("dataset_name")._value())
        if reference.endswith(".test.dataset.name}"):
            evaluator.dataset_name = reference.replace("dataset.name}", "dataset.names}")


def _nodes(cfg: Any, path: str) -> Iterator[Any]:
    """Yield the node at ``path``. For a dataset that is part of another dataset, also yield the node of the latter."""
    node = OmegaConf.select(cfg, path, default=None)
    while OmegaConf.is_dict(node):
        yield node
        node = node.get("dataset") if path.endswith(".dataset") else None


def _is_renamed(node: Any, former: str, present: str) -> bool:
    """Return True if the key ``former`` of a node is a renamed key, and not an argument of a user's own function."""
    target = node.get("_target_")
    return target is None or (accepts(target, present) and not accepts(target, former))


def _rename(node: Any, former: str, present: str) -> None:
    """Rename a key of a node. The position of the key is kept, because the order of optimizer rules matters."""
    items = {key: node._get_node(key) for key in node}
    value = items[former]
    if OmegaConf.is_interpolation(node, former):
        # The reference may name the same key of the enclosing node, such as "${..problems_allowed}".
        value = value._value().replace(f".{former}}}", f".{present}}}")
    renamed = present if present in items else former
    items[renamed] = value
    for key in list(node):
        del node[key]
    for key, item in items.items():
        if key == renamed:
            node[present] = item
        elif key != former:
            node[key] = item


def _warn(path: str, former: str, present: str) -> None:
    logger.warning(f"The config key {path}.{former} is deprecated: it has been renamed to {path}.{present}")
