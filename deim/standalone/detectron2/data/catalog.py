"""Data sets by name: how to load their records, and what is known of them."""

import types
from collections import UserDict
from collections.abc import Callable
from typing import Any

__all__ = ["DatasetCatalog", "Metadata", "MetadataCatalog"]


class _DatasetCatalog(UserDict):
    """``name -> function`` that returns the data set's list of records."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        if not callable(func):
            raise AssertionError("You must register a function with `DatasetCatalog.register`!")
        if name in self:
            raise AssertionError(f"Dataset '{name}' is already registered!")
        self[name] = func

    def get(self, name: str) -> list[dict]:
        """Load the records of ``name``."""
        if name not in self:
            known = ", ".join(self) or "none"
            raise KeyError(f"Dataset '{name}' is not registered! Available datasets are: {known}")
        return self[name]()

    def list(self) -> list[str]:
        return list(self)

    def remove(self, name: str) -> None:
        self.pop(name)


class Metadata(types.SimpleNamespace):
    """Facts about one data set; a fact once set can only be set again to the same value."""

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        raise AttributeError(
            f"Attribute '{key}' does not exist in the metadata of dataset '{self.name}'. "
            f"Available keys are {list(self.__dict__)}."
        )

    def __setattr__(self, key: str, val: Any) -> None:
        if key in self.__dict__ and self.__dict__[key] != val:
            raise AssertionError(
                f"Attribute '{key}' in the metadata of '{self.name}' cannot be set to a different value!\n"
                f"{self.__dict__[key]} != {val}"
            )
        super().__setattr__(key, val)

    def set(self, **kwargs) -> "Metadata":
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        return self.__dict__.get(key, default)

    def as_dict(self) -> dict:
        return dict(self.__dict__)


class _MetadataCatalog(UserDict):
    """``name -> Metadata``, made on first use."""

    def get(self, name: str) -> Metadata:
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]

    def list(self) -> list[str]:
        return list(self)

    def remove(self, name: str) -> None:
        self.pop(name)


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
