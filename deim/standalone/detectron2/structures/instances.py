"""Annotations or predictions of one image: named fields of equal length."""

import itertools
from typing import Any

import torch


class Instances:
    """The instances of one image. Each field, such as ``gt_boxes`` or ``scores``, has one value per instance.

    Fields are accessed as attributes. Indexing, :meth:`cat` and :meth:`to` apply to all fields.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any):
        """Create instances.

        Args:
            image_size: (height, width) of the image in pixels.
            kwargs: fields.
        """
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
            AssertionError: if the length differs from that of the other fields.
            TypeError: if ``value`` has no length.
        """
        length = len(value)
        if self._fields and length != len(self):
            raise AssertionError(f"Field {name!r} has length {length}, but the other fields have length {len(self)}")
        self._fields[name] = value

    def get(self, name: str) -> Any:
        """Return a field. Raises KeyError if it does not exist."""
        return self._fields[name]

    def has(self, name: str) -> bool:
        return name in self._fields

    def remove(self, name: str) -> None:
        del self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """Return {name: field}. Changes of the returned dict change the instances."""
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

    def _map_fields(self, change) -> "Instances":
        return Instances(self._image_size, **{name: change(value) for name, value in self._fields.items()})

    def to(self, *args: Any, **kwargs: Any) -> "Instances":
        """Return new instances, with ``to`` applied to every field that has this method."""
        return self._map_fields(lambda value: value.to(*args, **kwargs) if hasattr(value, "to") else value)

    def __getitem__(self, item) -> "Instances":
        if type(item) is int:  # excludes bool, which indexes differently
            if not -len(self) <= item < len(self):
                raise IndexError("Instances index out of range!")
            item = slice(item, item + 1 or None)
        return self._map_fields(lambda value: value[item])

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Empty Instances does not support __len__!")

    def __iter__(self):
        raise NotImplementedError("`Instances` object is not iterable!")

    @staticmethod
    def cat(instance_lists: list["Instances"]) -> "Instances":
        """Concatenate the instances of images of the same size.

        Returns:
            The entry itself if the list has one entry. Otherwise new instances with the fields of the first entry.

        Raises:
            AssertionError: if the list is empty, or the image sizes differ.
            KeyError: if an entry lacks a field of the first one.
            ValueError: if a field is not a tensor, a list, or an object whose class has ``cat``.
        """
        if not all(isinstance(instances, Instances) for instances in instance_lists) or not len(instance_lists):
            raise AssertionError("Instances.cat needs a non-empty list of Instances")
        first = instance_lists[0]
        if len(instance_lists) == 1:
            return first
        size = first.image_size
        # Tracing turns the image size into a tensor.
        if not isinstance(size, torch.Tensor) and any(instances.image_size != size for instances in instance_lists):
            raise AssertionError(f"The image sizes differ: {[instances.image_size for instances in instance_lists]}")
        joined = Instances(size)
        for name in first.get_fields():
            joined.set(name, _concatenate(name, [instances.get(name) for instances in instance_lists]))
        return joined

    def __repr__(self) -> str:
        height, width = self._image_size
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        return f"Instances(num_instances={len(self)}, image_height={height}, image_width={width}, fields=[{fields}])"

    __str__ = __repr__


def _concatenate(name: str, values: list) -> Any:
    """Concatenate the values of one field."""
    field_type = type(values[0])
    if isinstance(values[0], torch.Tensor):
        return torch.cat(values)
    if isinstance(values[0], list):
        return list(itertools.chain(*values))
    if hasattr(field_type, "cat"):
        return field_type.cat(values)
    raise ValueError(f"Unsupported type {field_type} for concatenation of the field {name!r}")
