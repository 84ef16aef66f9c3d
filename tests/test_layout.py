"""Imports between packages follow the order of their layers."""

import ast
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT

# From the lowest layer up. A package imports only from packages before it.
DEIM_LAYERS = (
    "errors",
    "environment_variables",
    "cores",
    "devices",
    "processes",
    "fallback",
    "tasks",
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
    "reporting",
    "jobs",
    "measurement",
    "cli",
)
MODELING_LAYERS = ("backbone", "encoder", "queries", "matching", "losses", "decoder", "detector")


def imported_subpackages(path: Path, prefix: str) -> set[str]:
    """Return the subpackages of the package ``prefix`` that a file imports, anywhere in the file."""
    subpackages = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        subpackages |= {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}
    return subpackages


@pytest.mark.parametrize(
    ("package", "layers"), [("deim", DEIM_LAYERS), ("deim/modeling", MODELING_LAYERS)], ids=["deim", "modeling"]
)
def test_imports_follow_layer_order(package: str, layers: Sequence[str]) -> None:
    folder = ROOT / package
    names = {path.stem for path in folder.iterdir() if path.name[0] not in "_."} - {"standalone", "py"}
    assert names == set(layers), "every subpackage has a layer"
    for layer, name in enumerate(layers):
        files = sorted((folder / name).rglob("*.py")) if (folder / name).is_dir() else [folder / f"{name}.py"]
        upper_layers = set(layers[layer + 1 :])
        for path in files:
            upward_imports = imported_subpackages(path, package.replace("/", ".") + ".") & upper_layers
            assert not upward_imports, f"{path.relative_to(ROOT)} imports {sorted(upward_imports)} from higher layers"


def test_package_has_no_relative_imports() -> None:
    """The other tests of this file see only absolute imports."""
    for path in (ROOT / "deim").rglob("*.py"):
        if "standalone" not in path.relative_to(ROOT).parts:
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            assert not any(isinstance(node, ast.ImportFrom) and node.level for node in nodes), path


def test_package_does_not_import_the_benchmarks_of_the_checkout() -> None:
    for path in (ROOT / "deim").rglob("*.py"):
        assert not imported_subpackages(path, "benchmarks."), path


def test_standalone_packages_do_not_import_deim() -> None:
    for path in (ROOT / "deim" / "standalone").rglob("*.py"):
        assert not imported_subpackages(path, "deim."), path
