"""The annotations or predictions of one image: named fields of equal length."""

import itertools
from typing import Any

import torch


class Instances:
    """Fields of one value per instance, e.g. ``gt_boxes``, ``scores``, for an image of ``image_size``.

    Fields are attributes; indexing, :meth:`cat` and :meth:`to` apply to all of them.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any):
        """``image_size`` is (height, width); ``kwargs`` are fields."""
        self.__dict__["_image_size"] = image_size
        self.__dict__["_fields"] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        return self._image_size

    def set(self, name: str, value: Any) -> None:
        """Add or replace a field.

        Raises:
            AssertionError: its length is not that of the other fields.
        """
        if self._fields and len(value) != len(self):
            raise AssertionError(f"Adding a field of length {len(value)} to a Instances of length {len(self)}")
        self._fields[name] = value

    def get(self, name: str) -> Any:
        return self._fields[name]

    def has(self, name: str) -> bool:
        return name in self._fields

    def remove(self, name: str) -> None:
        del self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        return self._fields

    def __setattr__(self, name: str, val: Any) -> None:
        if name.startswith("_"):
            self.__dict__[name] = val
        else:
            self.set(name, val)

    def __getattr__(self, name: str) -> Any:
        fields = self.__dict__.get("_fields", {})
        if name in fields:
            return fields[name]
        raise AttributeError(f"Cannot find field '{name}' in the given Instances!")

    def _each(self, change) -> "Instances":
        return Instances(self._image_size, **{name: change(value) for name, value in self._fields.items()})

    def to(self, *args: Any, **kwargs: Any) -> "Instances":
        return self._each(lambda value: value.to(*args, **kwargs) if hasattr(value, "to") else value)

    def __getitem__(self, item) -> "Instances":
        if isinstance(item, int):
            if not -len(self) <= item < len(self):
                raise IndexError("Instances index out of range!")
            item = slice(item, item + 1 or None)
        return self._each(lambda value: value[item])

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Empty Instances does not support __len__!")

    @staticmethod
    def cat(instance_lists: list["Instances"]) -> "Instances":
        """Concatenate instances of images of one size."""
        first = instance_lists[0]
        joined = Instances(first.image_size)
        for name, value in first.get_fields().items():
            values = [one.get(name) for one in instance_lists]
            if isinstance(value, torch.Tensor):
                joined.set(name, torch.cat(values))
            elif isinstance(value, list):
                joined.set(name, list(itertools.chain(*values)))
            else:
                joined.set(name, type(value).cat(values))
        return joined

    def __repr__(self) -> str:
        height, width = self._image_size
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        return (
            f"Instances(num_instances={len(self) if self._fields else 0}, image_height={height}, "
            f"image_width={width}, fields=[{fields}])"
        )

    __str__ = __repr__
