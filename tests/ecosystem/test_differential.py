"""The bundled subset behaves like the real detectron2 and detrex, call by call.

The calls are in ``tests/ecosystem/calls``. This process evaluates them with the real packages, a second process with
the subset.
"""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deim.fallback import STANDALONE, is_standalone
from tests.conftest import ROOT
from tests.ecosystem import surface
from tests.ecosystem.calls import GROUPS, equal, list_calls, outcome

if is_standalone("detectron2") or is_standalone("detrex"):
    pytest.skip("compares the bundled subset with the real detectron2 and detrex", allow_module_level=True)


@pytest.fixture(scope="session")
def subset(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the outcomes of the calls and the public names with the bundled subset."""
    folder = tmp_path_factory.mktemp("subset")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(STANDALONE), str(ROOT)])}
    command = [sys.executable, "-W", "ignore", "-m", "tests.ecosystem.calls", str(folder / "outcomes.pkl")]
    result = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return pickle.loads((folder / "outcomes.pkl").read_bytes())


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in an empty current folder, since some calls write to it."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("group", "call"), list_calls(*GROUPS))
def test_outcomes_are_equal(group: str, call: str, subset: dict[str, Any]) -> None:
    expected, actual = outcome(group, call), subset["outcomes"][group, call]
    assert equal(actual, expected), f"{call}\nsubset: {actual}\nreal:   {expected}"


@pytest.mark.parametrize(("group", "call"), list_calls("unsupported"))
def test_unsupported_calls_are_errors_in_subset(group: str, call: str, subset: dict[str, Any]) -> None:
    assert subset["outcomes"][group, call] in (("raises", "NotImplementedError"), ("raises", "TypeError"))
    assert outcome(group, call)[:1] != ("raises",), "the real package accepts it"


def test_signatures_match_real_packages(subset: dict[str, Any]) -> None:
    problems = []
    for path, parameters in subset["surface"].items():
        try:
            real = surface.parameters_of(surface.find(path))
        except (AttributeError, ImportError):
            problems.append(f"{path} does not exist")
            continue
        if parameters is not None and not _fits(parameters, real or []):
            problems.append(f"{path}\nsubset: {[*map(tuple, parameters)]}\nreal:   {[*map(tuple, real or [])]}")
    assert len(subset["surface"]) > 200
    assert not problems, "\n".join(problems)


def _fits(parameters: list[surface.Parameter], real: list[surface.Parameter]) -> bool:
    """Return True if every parameter exists with the same name, kind and default, in the same order.

    Keyword-only parameters of the subset may be positional in the real package.
    """
    by_name = {parameter.name: parameter for parameter in real}
    if any(parameter.name not in by_name for parameter in parameters):
        return False
    order = [real.index(by_name[parameter.name]) for parameter in parameters]
    matches = (_is_same(parameter, by_name[parameter.name]) for parameter in parameters)
    return order == sorted(order) and all(matches) and _starts_alike(parameters, real)


def _is_same(parameter: surface.Parameter, real: surface.Parameter) -> bool:
    return parameter.default == real.default and parameter.kind in (real.kind, "KEYWORD_ONLY")


def _starts_alike(parameters: list[surface.Parameter], real: list[surface.Parameter]) -> bool:
    """Return True if positional arguments are assigned to the same parameters in both."""
    positional = [parameter.name for parameter in parameters if parameter.kind == "POSITIONAL_OR_KEYWORD"]
    return (
        positional
        == [parameter.name for parameter in real if parameter.kind == "POSITIONAL_OR_KEYWORD"][: len(positional)]
    )
