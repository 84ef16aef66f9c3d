"""Renamed config keys. The former names still work, with a warning."""

import logging
from typing import Any

from omegaconf import OmegaConf

from deim.config.building import accepts

logger = logging.getLogger("detectron2.deim")

_SPLITS = ("train", "test")


# Former name of a key -> present name.
_PRESENT = {f"dataloader.{split}.dataset.name": f"dataloader.{split}.dataset.names" for split in _SPLITS}
_PRESENT["dataloader.train.mapper.colour"] = "dataloader.train.mapper.color"


def present_key(key: str) -> str:
    """Return the present name of a key on the command line.

    Args:
        key: dotted key, such as ``dataloader.train.dataset.name``.
    """
    for former, present in _PRESENT.items():
        if key == former or key.startswith(f"{former}."):
            return present + key[len(former) :]
    return key


def rename_former_keys(cfg: Any) -> None:
    """Rename the former keys of a config, for example one saved by an earlier version, in place."""
    for split in _SPLITS:
        node = OmegaConf.select(cfg, f"dataloader.{split}.dataset", default=None)
        while OmegaConf.is_dict(node):
            if "name" in node and "names" not in node and accepts(node.get("_target_"), "names"):
                node["names"] = node.pop("name")
                logger.warning(f"dataloader.{split}.dataset.name has been renamed to names, as in detectron2")
            node = node.get("dataset")  # a split node wraps the node of the whole dataset
    mapper = OmegaConf.select(cfg, "dataloader.train.mapper", default=None)
    if OmegaConf.is_dict(mapper) and "colour" in mapper and accepts(mapper.get("_target_"), "color"):
        mapper["color"] = mapper.pop("colour")
        logger.warning("dataloader.train.mapper.colour has been renamed to color")
    evaluator = OmegaConf.select(cfg, "dataloader.evaluator", default=None)
    if OmegaConf.is_dict(evaluator) and OmegaConf.is_interpolation(evaluator, "dataset_name"):
        reference = str(evaluator._get_node("dataset_name")._value())
        if reference.endswith(".test.dataset.name}"):
            evaluator.dataset_name = reference.replace("dataset.name}", "dataset.names}")
