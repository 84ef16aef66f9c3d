"""Locations of the configs and recipes shipped with deim."""

import difflib
from pathlib import Path

from deim.errors import ConfigError

_PACKAGE = Path(__file__).parents[1]


def shipped_folder(name: str) -> Path:
    """Return the folder ``"configs"`` or ``"projects"``: inside the installed package, or next to it in a checkout."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def available() -> list[str]:
    """Return the names of all recipes, such as ``"deim_dfine/deim_dfine_s_coco"``."""
    files = shipped_folder("projects").glob("*/configs/*.py")
    return sorted(f"{path.parents[1].name}/{path.stem}" for path in files)


def recipe_name(path: str) -> str:
    """Return the name of the recipe in the file ``path``, or ``path`` itself if deim does not ship it."""
    file = Path(path).resolve()
    if file.is_relative_to(shipped_folder("projects").resolve()) and file.parent.name == "configs":
        return f"{file.parents[1].name}/{file.stem}"
    return path


def nearest(name: str) -> str:
    """Return the three recipe names closest to ``name``, separated by commas, for error messages."""
    return ", ".join(difflib.get_close_matches(name, available(), n=3, cutoff=0.0))


def get_config_file(name: str) -> str:
    """Return the path of the recipe ``<system>/<recipe>``.

    Raises:
        ConfigError: if the recipe does not exist.
    """
    system, _, recipe = name.partition("/")
    path = shipped_folder("projects") / system / "configs" / f"{recipe}.py"
    if not path.is_file():
        raise ConfigError(f"recipe {name!r} does not exist; the closest names are {nearest(name)} (deim zoo lists all)")
    return str(path)
