"""Evaluation on several test sets.

``dataloader.test`` is the main test set. ``dataloader.extra_tests`` names further ones, and ``train.eval_train_images``
adds a part of the training data. The metrics of a further test set get its name as a prefix, as in detectron2.
"""

from typing import Any

from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from deim.config.annotations import trained_annotations
from deim.config.building import accepts
from deim.config.user_data import evaluation_node
from deim.data.datasets.names import registered_name
from deim.data.datasets.subset import evenly_spaced_images
from deim.errors import ConfigError, DatasetError
from deim.tasks import TASKS

# Name of the test set of training images.
TRAIN = "train"


def split_test_sets(cfg: Any) -> None:
    """Move all but the first data loader of a list or dict ``dataloader.test`` to ``dataloader.extra_tests``, in place.

    Loaders of a list get the names of their datasets.

    Raises:
        ConfigError: if there is no loader, or two loaders have the same name.
    """
    loaders = OmegaConf.select(cfg, "dataloader.test", default=None)
    if OmegaConf.is_dict(loaders) and "_target_" not in loaders:
        named = [(str(name), loaders._get_node(name)) for name in loaders]
    elif OmegaConf.is_list(loaders):
        nodes = [loaders._get_node(index) for index in range(len(loaders))]
        named = [(registered_name(node.get("dataset")) or str(index), node) for index, node in enumerate(nodes)]
    else:
        return
    names = [name for name, _ in named]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"dataloader.test must contain loaders with different names, got {names}")
    cfg.dataloader.test = named[0][1]
    if len(named) > 1:
        cfg.dataloader.extra_tests = {**(cfg.dataloader.get("extra_tests") or {}), **dict(named[1:])}


def extra_test_configs(cfg: Any) -> dict[str, Any]:
    """Return the configs of the test sets besides the main one, by name.

    In each config, ``dataloader.test`` and ``dataloader.evaluator`` are those of the test set. The configs have no
    optimizer.

    Raises:
        ConfigError: if a name is that of a task, or a value of ``dataloader.extra_tests`` is neither a path nor a node.
        DatasetError: if there is no dataset at a path.
    """
    nodes = {str(name): node for name, node in (cfg.dataloader.get("extra_tests") or {}).items() if node is not None}
    count = cfg.train.get("eval_train_images")
    if count:
        if TRAIN in nodes:
            raise ConfigError(f"dataloader.extra_tests.{TRAIN} and train.eval_train_images have the same name")
        nodes[TRAIN] = _part_of_training_data(cfg, count)
    reserved = [name for name in nodes if name in TASKS]
    if reserved:
        raise ConfigError(f"dataloader.extra_tests.{reserved[0]} is the name of a task: choose another name")
    return {name: _config_of(cfg, name, node) for name, node in nodes.items()}


def _part_of_training_data(cfg: Any, count: int) -> Any:
    dataset = cfg.dataloader.train.get("dataset")
    name = registered_name(dataset)
    if name is None:
        raise ConfigError("train.eval_train_images needs a training dataset with dataloader.train.dataset.names")
    if not isinstance(count, int) or count < 1:
        raise ConfigError(f"train.eval_train_images must be an integer of at least 1, got {count!r}")
    return L(evenly_spaced_images)(names=f"{name}_eval", dataset=dataset, full_name=name, count=count)


def _config_of(cfg: Any, name: str, node: Any) -> Any:
    """Return the config whose test set is a loader, a dataset or the dataset at a path."""
    content: Any = OmegaConf.to_container(cfg, resolve=False)
    for key in ("optimizer", "lr_multiplier"):
        content.pop(key, None)
    part = OmegaConf.create(content, flags={"allow_objects": True})
    if isinstance(node, str):
        try:
            node = evaluation_node(node, name, trained_annotations(cfg))
        except DatasetError as error:
            raise DatasetError(f"dataloader.extra_tests.{name}: {error}") from error
    if not OmegaConf.is_dict(node) or "_target_" not in node:
        raise ConfigError(
            f"dataloader.extra_tests.{name} must be the path of a dataset, a dataset node or a loader node, got {node!r}"
        )
    if "dataset" in node and "mapper" in node:
        part.dataloader.test = node
    else:
        part.dataloader.test.dataset = node
    evaluator = part.dataloader.get("evaluator")
    for argument, value in (("output_dir", f"{cfg.train.output_dir}/evaluation/{name}"), ("allow_cached_coco", False)):
        if evaluator is not None and accepts(evaluator.get("_target_"), argument):
            evaluator[argument] = value
    return part
