#!/usr/bin/env python
"""Copy the documentation pages to ``build/docs``, with their paths in the repository. mkdocs runs this as a hook.

python tools/gather_docs.py
"""

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "LICENSE",
    "CITATION.cff",
    "docs/**/*",
    "projects/**/*.md",
    "configs/**/*.py",
)
_RECIPES = "projects/*/configs/*.py"
# Sphinx roles in docstrings.
_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):(<code>)~?(?:[\w.]+\.)?(\w+)(</code>)")


def gather(target: Path) -> None:
    """Replace ``target`` by a copy of the documentation pages."""

    shutil.rmtree(target, ignore_errors=True)
    for pattern in (*_PAGES, _RECIPES):
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file() and "__pycache__" not in path.parts:
                copy = target / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)


def on_pre_build(config: dict) -> None:
    """Copy the pages before mkdocs builds the site."""

    gather(ROOT / config["docs_dir"])


def on_page_content(html: str, **_: object) -> str:
    """Return the HTML of a page with the Sphinx roles of docstrings removed."""

    return _ROLE.sub(r"\1\2\3", html)


if __name__ == "__main__":
    if "--help" in sys.argv:
        print(__doc__)
    else:
        gather(ROOT / "build" / "docs")
