#!/usr/bin/env python
"""Copy the documentation pages to ``build/docs``, with their paths in the repository. mkdocs runs this as a hook.

python tools/gather_docs.py
"""

import ast
import functools
import logging
import re
import shutil
import sys
import zlib
from pathlib import Path
from typing import Any

logger = logging.getLogger("mkdocs.hooks.gather_docs")

ROOT = Path(__file__).resolve().parents[1]
_PAGES = (
    "README.md",
    "README.zh-CN.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "LICENSE",
    "CITATION.cff",
    "docs/**/*",
    "notebooks/*.ipynb",
    "projects/**/*.md",
    "configs/**/*.py",
    "projects/*/configs/*.py",
)
# Folders of them that the site does not contain: caches, and the source code of example programs.
_OMITTED = {"__pycache__", "examples"}
# A link or an image to a file of the repository: text, path, anchor.
_LINK = re.compile(r"\[([^\]\[]*)\]\((?!\w+:)([^)#\s]+)(#[^)]*)?\)")
# Modules without API pages: the command line, which has a page of its own, and the bundled subsets.
_WITHOUT_PAGES = ("cli", "standalone", "__main__")


def gather(target: Path) -> None:
    """Replace ``target`` by a copy of the documentation pages."""
    shutil.rmtree(target, ignore_errors=True)
    for path in sorted(_gathered_files()):
        copy = target / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)


@functools.cache
def _gathered_files() -> frozenset[Path]:
    """Return the files that the site contains."""
    paths = (path for pattern in _PAGES for path in ROOT.glob(pattern))
    return frozenset(path for path in paths if path.is_file() and not _OMITTED & {*path.relative_to(ROOT).parts})


def on_pre_build(config: dict) -> None:
    """Copy the pages before mkdocs builds the site."""
    _gathered_files.cache_clear()  # mkdocs serve builds several times
    gather(ROOT / config["docs_dir"])


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Point links to folders at their README, and show links to files outside the site as text."""
    if page.file.src_path.startswith("docs/api/"):
        page.meta.setdefault("search", {"boost": 0.3})  # the search lists explanations before names
    folder = (ROOT / page.file.src_path).parent
    return _LINK.sub(lambda link: _on_site(link, folder), markdown)


def _on_site(link: re.Match, folder: Path) -> str:
    text, path, anchor = link[1], link[2], link[3] or ""
    target = (folder / path).resolve()
    if not target.is_relative_to(ROOT) or not target.exists():
        return link[0]  # mkdocs reports what is missing
    if target.is_dir():
        return f"[{text}]({path.rstrip('/')}/README.md{anchor})" if (target / "README.md").is_file() else text
    return link[0] if target in _gathered_files() else text


def on_page_content(html: str, page: Any, **_: object) -> str:
    """Warn about roles in docstrings that ``docstring_links.py`` did not turn into links or code.

    Also show ``|`` in the code of tables, which GitHub needs as ``\\|``, without its backslash.
    """
    roles = re.findall(r":(?:class|func|meth|mod|data|attr|exc|ref|math):(?=<code>|`)", html)
    for role in sorted(set(roles)) if page.file.src_path.startswith("docs/api/") else ():
        logger.warning(f"{page.file.src_path} shows the role {role} of a docstring as text")
    return re.sub(r"<code>[^<]*</code>", lambda code: code[0].replace(r"\|", "|"), html)


def on_post_build(config: dict) -> None:
    """Warn about public symbols that the built API pages do not show; an error with ``--strict``."""
    inventory = Path(config["site_dir"], "objects.inv").read_bytes().split(b"\n", 4)[4]
    shown = {line.split(" ")[0] for line in zlib.decompress(inventory).decode().splitlines()}
    for symbol in sorted(set(public_symbols()) - shown):
        logger.warning(f"{symbol} is public, but no page of docs/api shows it")


def public_symbols(root: Path = ROOT) -> list[str]:
    """Return the full paths, in the defining module, of all functions, classes and constants without a leading "_"."""
    found = []
    for path in sorted((root / "deim").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[1] in _WITHOUT_PAGES:
            continue
        module = ".".join(parts).removesuffix(".__init__")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names = [node.name]
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [target.id for target in targets if isinstance(target, ast.Name)]
            else:
                continue
            found += [f"{module}.{name}" for name in names if not name.startswith("_") and name != "logger"]
    return found


if __name__ == "__main__":
    if "--help" in sys.argv:
        print(__doc__)
    else:
        gather(ROOT / "build" / "docs")
