"""The page of config keys lists every key, with the default of the configs."""

import re
from functools import cache
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from deim import model_zoo
from deim.config import get_config, load_config
from tests.conftest import ROOT

PAGE = ROOT / "docs/config_keys.md"
ADDED = "Keys that recipes add"
SECTIONS = ("train", "schedule", "lr_multiplier", "optimizer", "dataloader")


@cache
def tables() -> dict[str, dict[str, str]]:
    """Return {heading: {key: text of its default, without backticks}} of the page."""
    found: dict[str, dict[str, str]] = {}
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| `")]
        assert all(len(row) == 4 for row in rows), heading
        keys = [row[0].strip().strip("`") for row in rows]
        assert len(keys) == len(set(keys)), "a key is listed twice"
        found[heading] = {
            key: row[2].strip().strip("`").replace(r"\|", "|") for key, row in zip(keys, rows, strict=True)
        }
    return found


def leaves(node: Any, prefix: str) -> dict[str, Any]:
    """Return {dotted key: value} of a config node, without the inner nodes."""
    plain = OmegaConf.to_container(OmegaConf.create(node, flags={"allow_objects": True}), resolve=False)
    found = {}
    stack = [(prefix, plain)]
    while stack:
        key, value = stack.pop()
        if isinstance(value, dict) and value:
            stack += [(f"{key}.{name}", inner) for name, inner in value.items() if name != "_target_"]
        else:
            found[key] = value
    return found


@cache
def defaults() -> dict[str, Any]:
    schedule = get_config("common/schedule.py")
    parts = {
        "train": get_config("common/train.py").train,
        "schedule": schedule.schedule,
        "lr_multiplier": schedule.lr_multiplier,
        "optimizer": get_config("common/optim.py").optimizer,
        "dataloader": get_config("common/data/coco.py").dataloader,
    }
    return {key: value for name, node in parts.items() for key, value in leaves(node, name).items()}


def as_on_page(value: Any) -> Any:
    """Return a list of nodes as the text of their calls, and any other value unchanged; the page shows it as YAML."""
    if isinstance(value, list) and value and all(isinstance(node, dict) for node in value):
        calls = []
        for node in value:
            arguments = ", ".join(f"{name}={argument}" for name, argument in node.items() if name != "_target_")
            target = node["_target_"]
            calls.append(f"{getattr(target, '__name__', str(target).rpartition('.')[2])}({arguments})")
        return f"[{', '.join(calls)}]"
    return value


def assert_equal(key: str, text: str, value: Any) -> None:
    expected = as_on_page(value)
    assert text == expected or yaml.safe_load(text) == expected, f"{key} is {expected!r}, not {text}"


def test_the_page_lists_every_default_of_the_common_configs() -> None:
    listed = {k: v for heading, rows in tables().items() if heading not in (ADDED, "Model") for k, v in rows.items()}
    assert listed.keys() == defaults().keys()
    for key, value in defaults().items():
        assert_equal(key, listed[key], value)


def test_the_page_lists_every_key_that_a_recipe_adds() -> None:
    values: dict[str, list[Any]] = {}
    for name in model_zoo.list():
        if name.startswith(("dino_deim/", "dab_detr_deim/")):  # built on projects of detrex
            continue
        cfg = load_config(name)
        for section in SECTIONS:
            for key, value in leaves(cfg[section], section).items():
                if key not in defaults():
                    values.setdefault(key, []).append(value)
    listed = tables()[ADDED]
    assert listed.keys() == values.keys()
    for key, text in listed.items():
        if text:
            equal = [yaml.safe_load(text) == value or text == str(value) for value in values[key]]
            assert sum(equal) >= len(equal) / 2, f"{key} is {text} in {sum(equal)} of {len(equal)} recipes"


@pytest.mark.parametrize("key", sorted(tables()["Model"]))
def test_model_keys_are_those_of_the_recipe(key: str) -> None:
    cfg = load_config("deim_dfine/deim_dfine_s_coco")
    assert_equal(key, tables()["Model"][key], OmegaConf.select(cfg, key, throw_on_missing=True))
