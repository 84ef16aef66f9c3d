"""The API pages show every public function, class and constant of the package."""

import importlib
import re
from functools import cache
from types import SimpleNamespace

import pytest

from tests.conftest import ROOT
from tools.gather_docs import on_page_markdown, public_symbols

PAGES = sorted((ROOT / "docs/api").glob("*.md"))
# Patterns of the names that mkdocs.yml hides, unless the filters of a page replace them.
EVERYWHERE = tuple(re.findall(r'"!([^"]+)"', (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))


@cache
def directives() -> list[tuple[str, str, tuple[str, ...]]]:
    """Return (page, module, patterns of hidden names) of every directive."""
    found = []
    for page in PAGES:
        for module, options in re.findall(r"^::: (\S+)\n((?:    .*\n)*)", page.read_text(encoding="utf-8"), re.M):
            hidden = tuple(re.findall(r'"!([^"]+)"', options)) or EVERYWHERE
            found.append((page.name, module, hidden))
    return found


def pages_of(symbol: str) -> list[str]:
    """Return the pages whose directives show a symbol; a directive also shows the submodules of its module."""
    return [
        page
        for page, module, hidden in directives()
        if symbol.startswith(f"{module}.")
        and not any(re.search(pattern, name) for name in symbol[len(module) + 1 :].split(".") for pattern in hidden)
    ]


def test_every_public_symbol_is_on_one_page() -> None:
    symbols = public_symbols()
    assert {"deim.config.loading.load_config", "deim.inference.predictor.Predictor", "deim.errors.DeimError"} <= set(
        symbols
    )
    assert [symbol for symbol in symbols if len(pages_of(symbol)) != 1] == []


@pytest.mark.parametrize("module", sorted({module for _, module, _ in directives()}))
def test_directives_name_modules_that_exist(module: str) -> None:
    importlib.import_module(module)


def test_hidden_names_have_a_directive_of_their_own() -> None:
    assert "^_" in EVERYWHERE
    shown = {module for _, module, _ in directives()}
    for page, module, hidden in directives():
        for pattern in set(hidden) - set(EVERYWHERE):
            name = pattern.strip("^$")
            assert f"{module}.{name}" in shown, f"{page} hides {name}, which no page shows"


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [*PAGES, *(ROOT / "docs").glob("*.md"), *(ROOT / "docs/zh-CN").glob("*.md"), ROOT / "README.zh-CN.md"]
    missing = [str(page.relative_to(ROOT)) for page in pages if str(page.relative_to(ROOT)) not in navigation]
    assert missing == []


@pytest.mark.parametrize(
    ("written", "on_site"),
    [
        ("[the recipes](../projects/dfine)", "[the recipes](../projects/dfine/README.md)"),
        ("[the loss](../deim/modeling/losses/detrex.py)", "the loss"),
        ("[all pages](../docs)", "all pages"),
        ("[data](data.md#samplers), [paper](https://arxiv.org/abs/2412.04234)", None),
        ("[a config](../configs/common/train.py) and [a missing page](nothing.md)", None),
    ],
)
def test_links_are_rewritten_for_the_site(written: str, on_site: str | None) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_path="docs/detrex.md"), meta={})
    assert on_page_markdown(written, page) == (on_site or written)
