"""Where the configs and recipes lie that come with deim."""

import difflib
from pathlib import Path

from deim.errors import ConfigError

_PACKAGE = Path(__file__).parents[1]


def shipped_folder(name: str) -> Path:
    """``"configs"`` or ``"projects"``: inside the installed package, beside it in a checkout."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def available() -> list[str]:
    """Names of all recipes, such as ``"deim_dfine/deim_dfine_s_coco"``."""
    files = shipped_folder("projects").glob("*/configs/*.py")
    return sorted(f"{path.parents[1].name}/{path.stem}" for path in files)


def recipe_name(path: str) -> str:
    """The name of the recipe in the file ``path``; the path itself if it is none that comes with deim."""
    file = Path(path).resolve()
    if file.is_relative_to(shipped_folder("projects").resolve()) and file.parent.name == "configs":
        return f"{file.parents[1].name}/{file.stem}"
    return path


def nearest(name: str) -> str:
    """The recipes whose names are most like ``name``, for a message."""
    return ", ".join(difflib.get_close_matches(name, available(), n=3, cutoff=0.0))


def get_config_file(name: str) -> str:
    """Path of the recipe ``<system>/<recipe>``.

    Raises:
        ConfigError: there is none of that name.
    """
    system, _, recipe = name.partition("/")
    path = shipped_folder("projects") / system / "configs" / f"{recipe}.py"
    if not path.is_file():
        raise ConfigError(f"there is no recipe {name!r}; the nearest names are {nearest(name)} (deim zoo lists all)")
    return str(path)
