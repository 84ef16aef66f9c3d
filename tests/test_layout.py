"""Layers of the package: imports between subpackages run one way."""

import ast
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT

# From the bottom to the top; a package imports only from those before it.
PACKAGES = (
    "errors",
    "environment_variables",
    "cores",
    "devices",
    "processes",
    "fallback",
    "structures",
    "layers",
    "env",
    "schedule",
    "checkpoint",
    "analysis",
    "visualization",
    "data",
    "modeling",
    "config",
    "conversion",
    "inference",
    "engine",
    "benchmarks",
    "cli",
)
MODELING = ("backbone", "encoder", "queries", "matching", "losses", "decoder", "detector")


def find_imports(path: Path, prefix: str) -> set[str]:
    """Return the modules of the package ``prefix`` that a file imports from, at any place in the file."""
    imports = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        imports |= {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}
    return imports


@pytest.mark.parametrize(
    ("package", "layers"), [("deim", PACKAGES), ("deim/modeling", MODELING)], ids=["deim", "modeling"]
)
def test_imports_follow_the_layers(package: str, layers: Sequence[str]) -> None:
    folder = ROOT / package
    modules = {path.stem for path in folder.iterdir() if path.name[0] not in "_."} - {"standalone", "py"}
    assert modules == set(layers), "every module has its layer"
    for level, module in enumerate(layers):
        files = sorted((folder / module).rglob("*.py")) if (folder / module).is_dir() else [folder / f"{module}.py"]
        above = set(layers[level + 1 :])
        for path in files:
            forbidden = find_imports(path, package.replace("/", ".") + ".") & above
            assert not forbidden, f"{path.relative_to(ROOT)} imports from {sorted(forbidden)}, which are above it"


def test_bundled_subsets_do_not_import_deim() -> None:
    for path in (ROOT / "deim" / "standalone").rglob("*.py"):
        assert not find_imports(path, "deim."), path
