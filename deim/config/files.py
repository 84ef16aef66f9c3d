"""Where the configs and recipes lie that come with deim."""

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


def get_config_file(name: str) -> str:
    """Path of the recipe ``<system>/<recipe>``.

    Raises:
        ConfigError: there is none of that name.
    """
    system, _, recipe = name.partition("/")
    path = shipped_folder("projects") / system / "configs" / f"{recipe}.py"
    if not path.is_file():
        raise ConfigError(f"there is no recipe {name!r}; there are: {', '.join(available())}")
    return str(path)
