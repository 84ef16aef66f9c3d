"""Renamed config keys: the former names still work on the command line and in config files, with a warning."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf

from deim.config import load_config
from tests.commands import RECIPE
from tests.data.test_datasets import write_yolo

# Former key -> (present key, value on the command line).
RENAMED_KEYS = {
    "train.non_finite_steps_allowed": ("train.max_non_finite_steps", 7),
    "train.reference_images": ("train.reference_dataset_size", 7),
    "train.warn_of_plateau": ("train.plateau_warning", False),
    "optimizer.params.rules.undecayed.pattern": ("optimizer.params.rules.no_weight_decay.pattern", "bias"),
    "dataloader.train.unreadable_images_allowed": ("dataloader.train.max_unreadable_images", 7),
    "dataloader.train.image_cache_gigabytes": ("dataloader.train.image_cache_gb", 0.5),
    "dataloader.train.mapper.always.0.prob": ("dataloader.train.mapper.weak.0.prob", 0.25),
    "dataloader.train.mapper.colour.0.prob": ("dataloader.train.mapper.color.0.prob", 0.25),
    "dataloader.train.dataset.name": ("dataloader.train.dataset.names", "mine"),
    "dataloader.test.dataset.name": ("dataloader.test.dataset.names", "mine"),
}


@pytest.mark.parametrize("former", RENAMED_KEYS)
def test_former_keys_work_on_the_command_line(former: str, caplog: pytest.LogCaptureFixture) -> None:
    present, value = RENAMED_KEYS[former]
    cfg = load_config(RECIPE, [f"{former}={value}"])
    assert OmegaConf.select(cfg, present) == value
    assert OmegaConf.select(cfg, former) is None
    assert "is deprecated: it has been renamed to" in caplog.text


def test_former_keys_can_be_added_on_the_command_line(caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_config(RECIPE, ["+dataloader.train.dataset.problems_allowed=3"])
    assert cfg.dataloader.train.dataset.max_invalid_records == 3
    assert "dataset.problems_allowed is deprecated: it has been renamed to dataloader.train.dataset.max" in caplog.text


def test_former_keys_work_in_a_config_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mine.py").write_text(
        f"""
from detectron2.config import LazyConfig
_base = LazyConfig.load({RECIPE!r})
train, model, optimizer, schedule, lr_multiplier, dataloader = (
    _base[key] for key in ("train", "model", "optimizer", "schedule", "lr_multiplier", "dataloader")
)
train.non_finite_steps_allowed = 7
train.warn_of_plateau = False
train.reference_images = 7
optimizer.params.rules.undecayed = dict(pattern="bias", weight_decay=0.5)
dataloader.train.unreadable_images_allowed = 7
dataloader.train.image_cache_gigabytes = 0.5
dataloader.train.mapper.always = []
dataloader.train.dataset.problems_allowed = 7
"""
    )
    cfg = load_config(str(tmp_path / "mine.py"))
    assert (cfg.train.max_non_finite_steps, cfg.train.plateau_warning, cfg.train.reference_dataset_size) == (
        7,
        False,
        7,
    )
    assert cfg.optimizer.params.rules.no_weight_decay.weight_decay == 0.5
    assert list(cfg.optimizer.params.rules) == list(load_config(RECIPE).optimizer.params.rules)
    assert (cfg.dataloader.train.max_unreadable_images, cfg.dataloader.train.image_cache_gb) == (7, 0.5)
    assert list(cfg.dataloader.train.mapper.weak) == []
    assert cfg.dataloader.train.dataset.max_invalid_records == 7
    assert caplog.text.count("is deprecated") == 8
    assert "warn_of_plateau" not in OmegaConf.to_yaml(cfg.train)


def _with_former_keys(node: Any, renamed: dict[str, str]) -> Any:
    if isinstance(node, dict):
        return {renamed.get(key, key): _with_former_keys(value, renamed) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_former_keys(value, renamed) for value in node]
    return node.replace("max_invalid_records", "problems_allowed") if isinstance(node, str) else node


def _arguments(node: Any) -> Any:
    """Return a node without ``_target_``, which is a string in a saved config."""
    if not isinstance(node, dict):
        return node
    return {key: _arguments(value) for key, value in node.items() if key != "_target_"}


def test_saved_configs_with_former_keys_load(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved = OmegaConf.to_container(load_config(RECIPE), resolve=False)
    for split in ("train", "test"):
        node = saved["dataloader"][split]["dataset"]
        node["name"] = node.pop("names")
    mapper = saved["dataloader"]["train"]["mapper"]
    mapper["colour"], mapper["always"] = mapper.pop("color"), mapper.pop("weak")
    saved["dataloader"]["evaluator"]["dataset_name"] = "${..test.dataset.name}"
    LazyConfig.save(OmegaConf.create(saved, flags={"allow_objects": True}), str(tmp_path / "config.yaml"))
    loaded = load_config(str(tmp_path / "config.yaml"))
    assert loaded.dataloader.train.dataset.names == "deim_shapes_train"
    assert loaded.dataloader.evaluator.dataset_name == "deim_shapes_val"
    assert (len(loaded.dataloader.train.mapper.color), len(loaded.dataloader.train.mapper.weak)) == (1, 1)
    assert "dataloader.test.dataset.name is deprecated: it has been renamed to dataloader.test.dataset" in caplog.text


def test_saved_configs_with_a_held_out_split_load(tmp_path: Path) -> None:
    write_yolo(tmp_path / "mine")
    (tmp_path / "mine" / "data.yaml").write_text("names: [cat, dog]\ntrain: images/train\n")
    saved = OmegaConf.to_container(load_config(RECIPE, (), str(tmp_path / "mine")), resolve=False)
    datasets = {split: saved["dataloader"][split]["dataset"] for split in ("train", "test")}
    former = {
        "max_invalid_records": "problems_allowed",
        "full_name": "whole",
        "every_nth": "every",
        "held_out": "evaluated",
    }
    for split, node in datasets.items():
        saved["dataloader"][split]["dataset"] = _with_former_keys(node, former)
    LazyConfig.save(OmegaConf.create(saved, flags={"allow_objects": True}), str(tmp_path / "config.yaml"))
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert "problems_allowed: '${..problems_allowed}'" in text
    present, former_target = "deim.data.datasets.holdout.holdout_split", "deim.data.datasets.held_out.held_out_part"
    assert text.count(present) == 2
    (tmp_path / "config.yaml").write_text(text.replace(present, former_target), encoding="utf-8")
    loaded = load_config(str(tmp_path / "config.yaml"), ["dataloader.train.dataset.problems_allowed=2"]).dataloader
    assert _arguments(OmegaConf.to_container(loaded.test.dataset, resolve=False)) == _arguments(datasets["test"])
    assert loaded.train.dataset.dataset.max_invalid_records == 2
    assert [loaded[split].dataset._target_ for split in ("train", "test")] == [present] * 2


def test_other_functions_keep_their_arguments(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        """
from argparse import Namespace
from detectron2.config import LazyCall
train, model, optimizer = dict(), dict(), dict()
dataloader = dict(train=dict(dataset=LazyCall(Namespace)(name="mine", every=3), mapper=LazyCall(Namespace)(always=[])))
"""
    )
    train = load_config(str(tmp_path / "mine.py")).dataloader.train
    assert instantiate(train.dataset) == Namespace(name="mine", every=3)
    assert instantiate(train.mapper) == Namespace(always=[])
