"""Public names of packages, and their parameters."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any, NamedTuple


class Parameter(NamedTuple):
    name: str
    kind: str
    default: str | None


def public_names(*packages: str) -> dict[str, list[Parameter] | None]:
    """Return {dotted path: parameters} of public classes, functions and methods; None for those without a signature."""
    signatures = {}
    for package in packages:
        for module in _modules(package):
            for name in getattr(module, "__all__", None) or _defined_names(module):
                signatures[f"{module.__name__}:{name}"] = parameters_of(getattr(module, name))
                signatures |= {
                    f"{module.__name__}:{name}.{member}": parameters_of(getattr(getattr(module, name), member))
                    for member in _members(getattr(module, name))
                }
    return signatures


def find(path: str) -> Any:
    """Return the object at a path of :func:`public_names`. Raises AttributeError or ImportError if it is missing."""
    module, _, names = path.partition(":")
    target: Any = importlib.import_module(module)
    for name in names.split("."):
        target = getattr(target, name)
    return target


def parameters_of(target: Any) -> list[Parameter] | None:
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return None
    return [Parameter(p.name, p.kind.name, None if p.default is p.empty else repr(p.default)) for p in parameters]


def _modules(package: str) -> Iterator[Any]:
    root = importlib.import_module(package)
    yield root
    for info in pkgutil.walk_packages(root.__path__, f"{package}."):
        if not info.name.rpartition(".")[2].startswith("_"):
            yield importlib.import_module(info.name)


def _defined_names(module: Any) -> list[str]:
    return [n for n, v in vars(module).items() if n[0] != "_" and getattr(v, "__module__", "") == module.__name__]


def _members(target: Any) -> list[str]:
    """Return the public methods and properties of a class that the packages define."""
    if not inspect.isclass(target):
        return []
    classes = [cls for cls in target.__mro__ if cls.__module__.split(".")[0] in ("detectron2", "detrex")]
    return sorted(
        {name for cls in classes for name, value in vars(cls).items() if name[0] != "_" and _is_member(value)}
    )


def _is_member(value: Any) -> bool:
    """Return True for methods and properties, except abstract methods, whose parameters subclasses choose."""
    if getattr(value, "__isabstractmethod__", False):
        return False
    return callable(value) or isinstance(value, (staticmethod, classmethod, property))
