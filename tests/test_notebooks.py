"""Notebooks are committed without outputs and use commands, options and keys that exist; ``make notebook`` runs them."""

import json
import re
from pathlib import Path

import pytest

from deim.cli.main import COMMANDS
from deim.config import load_config
from tests.conftest import ROOT
from tests.test_docs import command_help, option_names

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def source(path: Path, kind: str) -> str:
    return "\n".join("".join(cell["source"]) for cell in cells(path, kind))


def test_there_is_a_notebook() -> None:
    assert [path.name for path in NOTEBOOKS] == ["finetune.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_outputs_are_cleared(path: Path) -> None:
    for cell in cells(path, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_links_exist(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", source(path, "markdown")):
        assert target.startswith("http") or (path.parent / target).exists(), target


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_commands_options_and_keys_exist(path: Path) -> None:
    code = source(path, "code")
    calls = re.findall(r"^ *!\{DEIM\} ([\w-]+)(.*)$", code, re.MULTILINE)
    assert {name for name, _ in calls} >= {"make-shapes", "check-data", "train", "plot", "export"}
    for name, arguments in calls:
        assert name in COMMANDS
        assert option_names(arguments) <= option_names(command_help(name)), (name, arguments)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_recipes_and_keys_exist(path: Path) -> None:
    text = source(path, "code") + source(path, "markdown")
    recipes = re.findall(r'"(\w+/\w+_(?:shapes|coco))"', text)
    assert len(recipes) == 2
    keys = re.findall(r"[ \"]((?:schedule|dataloader|train|optimizer|model)\.[\w.]+=[^\s\"{]+)", text)
    assert len(keys) > 5
    for name in recipes:
        load_config(name, keys)
