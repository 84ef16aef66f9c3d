"""Tables of the model zoo in Markdown."""

from collections.abc import Sequence

from deim.config import published
from deim.config.files import shipped_folder
from deim.config.results import RESULTS

_COLUMNS = ("recipe", "AP", "parameters", "GFLOPs", "latency", "weights, by training data")


def markdown(recipes: Sequence[str]) -> str:
    """Return a table for each system, with links relative to the folder ``docs``.

    Args:
        recipes: names of recipes; those without an entry in the table of results and without published weights are left out.
    """
    listed = [name for name in recipes if name in RESULTS or published.published_for(name)]
    order = {name: position for position, name in enumerate(RESULTS)}
    listed.sort(key=lambda name: order.get(name, len(order)))
    systems = dict.fromkeys(name.partition("/")[0] for name in listed)
    return "\n\n".join(_table(system, [name for name in listed if name.startswith(f"{system}/")]) for system in systems)


def _table(system: str, recipes: Sequence[str]) -> str:
    page = shipped_folder("projects") / system / "README.md"
    title = page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    lines = [_line(_COLUMNS), _line(["---"] * len(_COLUMNS)), *(_line(_row(recipe)) for recipe in recipes)]
    return "\n".join([f"## [{title}](../projects/{system}/README.md)", "", *lines])


def _row(recipe: str) -> list[str]:
    """Return the cells of a recipe: its link, AP, size and latency, and links to its weights."""
    system, _, name = recipe.partition("/")
    link = f"[`{name}`](../projects/{system}/configs/{name}.py)"
    result = RESULTS.get(recipe)
    if result is None:
        return [link, "-", "-", "-", "-", _weights(recipe)]
    precision = "-" if result.average_precision is None else str(result.average_precision)
    latency = "-" if result.latency is None else f"{result.latency} ms"
    size = [f"{result.parameters:.2f} M", f"{result.gflops:g}", latency]
    return [link, precision, *size, _weights(recipe)]


def _weights(recipe: str) -> str:
    """Return links to the published weights of a recipe, each with its AP if it differs from that of the recipe."""
    links = []
    for file in published.published_for(recipe):
        own = recipe in RESULTS and file.average_precision == RESULTS[recipe].average_precision
        precision = "" if own or file.average_precision is None else f" {file.average_precision}"
        links.append(f"[{file.data}]({file.url}){precision}")
    return ", ".join(links) or "-"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
