"""Catalogs of datasets by name: functions that load their records, and their metadata."""

import logging
import types
from collections import UserDict
from collections.abc import Callable
from typing import Any, ClassVar

__all__ = ["DatasetCatalog", "Metadata", "MetadataCatalog"]


class _DatasetCatalog(UserDict):
    """Catalog of {dataset name: function that loads its records}."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        """Add a dataset.

        Raises:
            AssertionError: if ``func`` is not callable, or the name is already registered.
        """
        if not callable(func):
            raise AssertionError("You must register a function with `DatasetCatalog.register`!")
        if name in self:
            raise AssertionError(f"Dataset '{name}' is already registered!")
        self[name] = func

    def get(self, name: str) -> list[dict]:
        """Load the records of a dataset.

        Raises:
            KeyError: if the dataset is not registered.
        """
        if name not in self:
            available = ", ".join(self) or "none"
            raise KeyError(f"Dataset '{name}' is not registered! Available datasets are: {available}")
        return self[name]()

    def list(self) -> list[str]:
        """Return the names of all datasets."""
        return list(self)

    def remove(self, name: str) -> None:
        """Remove a dataset. Raises KeyError if it is not registered."""
        self.pop(name)

    def __repr__(self) -> str:
        return f"DatasetCatalog(registered datasets: {', '.join(self)})"

    __str__ = __repr__


class Metadata(types.SimpleNamespace):
    """Metadata of one dataset. An attribute can only be set again to an equal value."""

    name: str = "N/A"

    # Former name -> present name, as in detectron2.
    _RENAMED: ClassVar[dict[str, str]] = {
        "class_names": "thing_classes",
        "dataset_id_to_contiguous_id": "thing_dataset_id_to_contiguous_id",
        "stuff_class_names": "stuff_classes",
    }

    def _current_name(self, key: str) -> str:
        if key not in self._RENAMED:
            return key
        logging.getLogger(__name__).warning(f"Metadata '{key}' was renamed to '{self._RENAMED[key]}'!")
        return self._RENAMED[key]

    def __getattr__(self, key: str) -> Any:
        if key in self._RENAMED:
            return getattr(self, self._current_name(key))
        raise AttributeError(
            f"Attribute '{key}' does not exist in the metadata of dataset '{self.name}'. "
            f"Available keys are {list(self.__dict__)}."
        )

    def __setattr__(self, key: str, val: Any) -> None:
        key = self._current_name(key)
        if key in self.__dict__ and self.__dict__[key] != val:
            raise AssertionError(
                f"Attribute '{key}' in the metadata of '{self.name}' cannot be set to a different value!\n"
                f"{self.__dict__[key]} != {val}"
            )
        super().__setattr__(key, val)

    def set(self, **kwargs) -> "Metadata":
        """Set several attributes and return the metadata."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """Return an attribute, or ``default`` if it does not exist."""
        return getattr(self, key, default)

    def as_dict(self) -> dict:
        """Return a copy of the attributes."""
        return dict(self.__dict__)


class _MetadataCatalog(UserDict):
    """Catalog of {dataset name: metadata}."""

    def get(self, name: str) -> Metadata:
        """Return the metadata of a dataset, created empty on first use.

        Raises:
            AssertionError: if the name is empty.
        """
        if not len(name):
            raise AssertionError("The name of a dataset must not be empty")
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]

    def list(self) -> list[str]:
        """Return the names of all datasets with metadata."""
        return list(self)

    def remove(self, name: str) -> None:
        """Remove the metadata of a dataset. Raises KeyError if they do not exist."""
        self.pop(name)

    def __repr__(self) -> str:
        return f"MetadataCatalog(registered metadata: {', '.join(self)})"

    __str__ = __repr__


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
