"""Keys of configs that have another name by now. Their former names still work, with a warning."""

import logging
from typing import Any

from omegaconf import OmegaConf

from deim.config.building import accepts

logger = logging.getLogger("detectron2.deim")

_SPLITS = ("train", "test")


def present_key(key: str) -> str:
    """Return the present name of a key on the command line.

    Args:
        key: such as ``dataloader.train.dataset.name``.
    """
    former = {f"dataloader.{split}.dataset.name" for split in _SPLITS}
    return f"{key}s" if key in former else key


def rename_former_keys(cfg: Any) -> None:
    """Give the nodes of a config, such as one that an earlier version has saved, the keys of this version, in place."""
    for split in _SPLITS:
        node = OmegaConf.select(cfg, f"dataloader.{split}.dataset", default=None)
        while OmegaConf.is_dict(node):
            if "name" in node and "names" not in node and accepts(node.get("_target_"), "names"):
                node["names"] = node.pop("name")
                logger.warning(f"dataloader.{split}.dataset.name is called names by now, as in detectron2")
            node = node.get("dataset")  # the whole of which it is a part
    evaluator = OmegaConf.select(cfg, "dataloader.evaluator", default=None)
    if OmegaConf.is_dict(evaluator) and OmegaConf.is_interpolation(evaluator, "dataset_name"):
        reference = str(evaluator._get_node("dataset_name")._value())
        if reference.endswith(".test.dataset.name}"):
            evaluator.dataset_name = reference.replace("dataset.name}", "dataset.names}")
