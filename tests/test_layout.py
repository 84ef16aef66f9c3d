"""The house: imports between packages run one way."""

import ast
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT

# From the ground up; a package imports from those before it.
DEIM = (
    *(
        "errors",
        "environment",
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
    ),
    *("visualization", "data", "modeling", "config", "conversion", "inference", "engine", "benchmarks", "cli"),
)
MODELING = ("backbone", "encoder", "queries", "matching", "losses", "decoder", "detector")


def imported(path: Path, prefix: str) -> set[str]:
    """The rooms of the package ``prefix`` that a file imports from, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}
    return found


@pytest.mark.parametrize(("package", "floors"), [("deim", DEIM), ("deim/modeling", MODELING)], ids=["deim", "modeling"])
def test_imports_follow_the_package_order(package: str, floors: Sequence[str]) -> None:
    folder = ROOT / package
    rooms = {path.stem for path in folder.iterdir() if path.name[0] not in "_."} - {"standalone", "py"}
    assert rooms == set(floors), "every room has its floor"
    for floor, room in enumerate(floors):
        files = sorted((folder / room).rglob("*.py")) if (folder / room).is_dir() else [folder / f"{room}.py"]
        above = set(floors[floor + 1 :])
        for path in files:
            upwards = imported(path, package.replace("/", ".") + ".") & above
            assert not upwards, f"{path.relative_to(ROOT)} imports from {sorted(upwards)}, which stand above it"


def test_bundled_subsets_do_not_import_deim() -> None:
    for path in (ROOT / "deim" / "standalone").rglob("*.py"):
        assert not imported(path, "deim."), path
