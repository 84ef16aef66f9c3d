"""Finding, loading and overriding of LazyConfigs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from deim.errors import ConfigError

_PACKAGE = Path(__file__).parent


def _root(folder: str) -> Path:
    """``configs`` or ``projects``: beside the package in a checkout, inside it when installed."""
    beside = _PACKAGE.parent / folder
    return beside if (beside / "README.md").is_file() or (beside / "common").is_dir() else _PACKAGE / folder


def config_root() -> Path:
    """The folder of the common configs."""
    return _root("configs")


def projects_root() -> Path:
    """The folder of the recipes, ``<system>/configs/*.py``."""
    beside = _PACKAGE.parent / "projects"
    return beside if (beside / "deim_dfine").is_dir() else _PACKAGE / "projects"


def get_config(path: str) -> Any:
    """The common config at ``path``, such as ``"common/train.py"``, wherever deim is installed.

    Raises:
        ConfigError: there is none.
    """
    file = config_root() / path
    if not file.is_file():
        raise ConfigError(f"there is no config {path} in {config_root()}")
    return LazyConfig.load(str(file))


def load_config(path: str, overrides: Sequence[str] = ()) -> Any:
    """A config file with command-line overrides applied.

    What it does not set under ``train`` gets the value of ``common/train.py``, so that recipes of
    detrex run as well.

    Args:
        overrides: ``key.sub=value``. A key must exist, so that a misspelt one does not go unnoticed;
            a new one is written ``+key.sub=value``.

    Raises:
        ConfigError: the file does not exist or cannot be run, or an override is wrong.
    """
    if not path:
        raise ConfigError("no config is given: --config-file projects/<system>/configs/<recipe>.py")
    if not Path(path).is_file():
        raise ConfigError(f"config file {path} does not exist")
    try:
        cfg = LazyConfig.load(path)
    except (ImportError, SyntaxError, ValueError, OmegaConfBaseException) as error:
        raise ConfigError(f"config file {path} cannot be loaded: {error}") from error
    missing = [key for key in ("train", "dataloader", "model", "optimizer") if key not in cfg]
    if missing:
        raise ConfigError(f"config file {path} defines no {', '.join(missing)}: it is not a complete recipe")
    # Recipes written for detrex know nothing of the settings that are only ours.
    cfg.train = OmegaConf.merge(get_config("common/train.py").train, cfg.train)
    for override in overrides:
        _apply(cfg, override)
    return cfg


def _apply(cfg: Any, override: str) -> None:
    text = override.lstrip("+")
    key, equals, _ = text.partition("=")
    if not equals:
        raise ConfigError(f"{override!r} is no override; write key=value")
    if not override.startswith("+"):
        _require_key(cfg, key)
    try:
        LazyConfig.apply_overrides(cfg, [text])
    except Exception as error:  # hydra and omegaconf have many kinds for malformed overrides
        raise ConfigError(f"override {override!r} cannot be applied: {error}") from error


def _require_key(cfg: Any, key: str) -> None:
    """Raise where ``key`` is not in the config, naming what is there."""
    node: Any = cfg
    done: list[str] = []
    for part in key.split("."):
        known = (
            list(node)
            if OmegaConf.is_dict(node)
            else list(map(str, range(len(node))))
            if OmegaConf.is_list(node)
            else []
        )
        if part not in known:
            where = ".".join(done) or "the config"
            raise ConfigError(
                f"unknown key {key!r}: {where} has {', '.join(k for k in known if k != '_target_') or 'no keys'} "
                f"(to add a key write +{key}=...)"
            )
        done.append(part)
        node = node[part] if OmegaConf.is_dict(node) else node[int(part)]
