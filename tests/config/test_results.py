"""Docs and docstrings state the same published results as the table of results."""

import ast
import re
from dataclasses import fields

import pytest

from deim import model_zoo
from deim.config import load_config, published, zoo_tables
from deim.config.files import available
from deim.config.results import RESULTS
from deim.measurement import complexity
from deim.schedule import Schedule
from tests.conftest import ROOT

PUBLISHED_RESULTS = [name for name, result in RESULTS.items() if result.average_precision is not None]


@pytest.mark.parametrize("name", PUBLISHED_RESULTS)
def test_recipes_and_project_pages_state_the_published_result(name: str) -> None:
    result = RESULTS[name]
    system, _, recipe = name.partition("/")
    docstring = docstring_of(name)
    assert re.search(
        rf"^Published: {result.average_precision} AP, from .+, on {result.hardware}\.$", docstring, re.MULTILINE
    )
    assert f"deim train --config-file {name} " in docstring
    page, row = page_and_row(system, recipe)
    assert row.endswith(f" | {result.average_precision} |")
    assert result.source in page


def docstring_of(name: str) -> str:
    system, _, recipe = name.partition("/")
    path = ROOT / f"projects/{system}/configs/{recipe}.py"
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def page_and_row(system: str, recipe: str) -> tuple[str, str]:
    """Return the page of a project, and the row of a recipe in it."""
    page = (ROOT / "projects" / system / "README.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if f"(configs/{recipe}.py) |" in line]
    return page, row


@pytest.mark.parametrize("name", sorted(set(RESULTS) - set(PUBLISHED_RESULTS)))
def test_recipes_and_project_pages_state_that_no_result_exists(name: str) -> None:
    docstring, result = docstring_of(name), RESULTS[name]
    assert "\nNo results exist yet." in docstring
    assert f"deim train --config-file {name} " in docstring
    _, row = page_and_row(*name.split("/"))
    assert row.endswith(" | - |")
    assert (result.source, result.hardware, result.latency) == ("", "", None)
    assert published.published_for(name) == []
    assert [file.data for file in published.initial_weights_for(name)].count("coco") == 1


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_readme_states_published_results_sizes_and_weights(page: str) -> None:
    systems = set()
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        row = re.match(r"\| \[[^]]+\]\(projects/(\w+)/configs/(\w+)\.py\) \| (.*) \|$", line)
        if row is None:
            continue
        system, name, cells = row.groups()
        result = RESULTS[f"{system}/{name}"]
        latency = "-" if result.latency is None else f"{result.latency} ms"
        (weights,) = [file for file in published.published_for(result.recipe) if file.data == "coco"]
        precision = f"[{result.average_precision}]({weights.url})"
        assert cells.split(" | ") == [f"{result.parameters:.1f} M", f"{result.gflops:g}", latency, precision]
        systems.add(system)
    assert systems == {name.partition("/")[0] for name in RESULTS}


def test_model_zoo_page_is_generated() -> None:
    page = (ROOT / "docs/model_zoo.md").read_text(encoding="utf-8")
    assert page.endswith(f"\n\n{zoo_tables.markdown(available())}\n"), "run: deim zoo --markdown"


COUNTED_IN_EVERY_RUN = (
    "deim_dfine/deim_dfine_n_coco",
    "rtdetrv2/rtdetrv2_r18vd_120e_coco",
    "deimv2/deimv2_hgnetv2_atto_coco",
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in COUNTED_IN_EVERY_RUN else pytest.mark.long) for name in RESULTS]
)
def test_parameters_and_operations_are_counted(name: str) -> None:
    result = RESULTS[name]
    (counted, *_) = complexity.count(name, result.image_size)
    assert counted["M deployed"] == pytest.approx(result.parameters, abs=0.005)
    assert counted["GFLOPs"] == pytest.approx(result.gflops, rel=0.005)


def test_results_belong_to_recipes() -> None:
    assert set(RESULTS) <= set(model_zoo.available())


def test_published_files_state_the_result_of_their_recipe() -> None:
    measured_by_detrex = ("deformable_detr/", "dn_detr/")  # files of detrex, with results that detrex measured
    for weights in published.PUBLISHED:
        if weights.data == "coco" and not weights.recipe.startswith(measured_by_detrex):
            assert weights.average_precision == RESULTS[weights.recipe].average_precision


@pytest.mark.parametrize("name", [name for name in model_zoo.available() if not name.startswith(("dino_", "dab_"))])
def test_schedule_keys_exist_in_all_recipes(name: str) -> None:
    assert {field.name for field in fields(Schedule)} <= set(load_config(name).schedule)
