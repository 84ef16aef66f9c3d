"""The Chinese pages have the structure and the commands of the English pages."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAIRS = {
    "README.zh-CN.md": "README.md",
    **{f"docs/zh-CN/{name}.md": f"docs/{name}.md" for name in ("quickstart", "your_data", "predict", "export")},
}
# Outside of code, a language is recognized by its characters.
CHINESE = re.compile(r"[一-鿿]")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code(text: str) -> list[tuple[str, list[str]]]:
    """Return the language and the lines of each code block, without comments, which are translated."""
    blocks = re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
    return [(language, [re.sub(r"\s*#.*", "", line) for line in block.splitlines()]) for language, block in blocks]


def prose(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def outline(text: str) -> list[str]:
    """Return the levels of the headings, the number of cells of each table row, and the list items, in order."""
    shape = []
    for line in prose(text).splitlines():
        if heading := re.match(r"#+", line):
            shape.append(heading[0])
        elif line.startswith("|"):
            shape.append(f"{line.count('|')} cells")
        elif re.match(r"\s*- ", line):
            shape.append("item")
    return shape


def targets(name: str) -> list[str]:
    """Return the files and URLs that a page links to; for a translated page, the English file is the target."""
    page = ROOT / name
    found = set()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose(page.read_text(encoding="utf-8"))):
        if not target.startswith("http"):
            target = str((page.parent / target).resolve().relative_to(ROOT))
        found.add(PAIRS.get(target, target))
    return sorted(found - set(PAIRS.values()))


@pytest.mark.parametrize("name", PAIRS)
def test_a_translated_page_follows_the_english_page(name: str) -> None:
    translated, original = read(name), read(PAIRS[name])
    assert code(translated) == code(original)
    assert outline(translated) == outline(original)
    assert targets(name) == targets(PAIRS[name])


@pytest.mark.parametrize("name", PAIRS)
def test_a_translated_page_is_translated(name: str) -> None:
    for paragraph in re.split(r"\n\s*\n", prose(read(name))):
        words = re.sub(r"\]\([^)]*\)|`[^`]*`|<[^>]*>", "", paragraph)
        if len(re.findall(r"[A-Za-z]{3,}", words)) >= 6:
            assert CHINESE.search(words), paragraph


@pytest.mark.parametrize("name", PAIRS)
def test_pages_link_to_their_translation(name: str) -> None:
    file = Path(PAIRS[name]).name
    prefix = "" if name.startswith("README") else "zh-CN/"
    link = "README.zh-CN.md" if name.startswith("README") else f"{prefix}{file}"
    assert f"[简体中文]({link})" in read(PAIRS[name])
    assert f"[English]({'' if name.startswith('README') else '../'}{file})" in read(name)
