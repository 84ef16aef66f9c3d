"""Augmentations: random policies that return deterministic transforms."""

import inspect
import pprint

import numpy as np
from fvcore.transforms.transform import Transform, TransformList

__all__ = ["AugInput", "Augmentation", "AugmentationList"]


class Augmentation:
    """A random policy: :meth:`get_transform` samples a deterministic transform.

    ``get_transform`` receives the attributes of the :class:`AugInput` that its parameters are named after; a single
    parameter is always the image. ``input_args``, if set, lists the attributes instead.
    """

    input_args: tuple[str, ...] | None = None

    def _init(self, params=None):
        """Store the ``locals()`` of a constructor as attributes."""
        for name, value in (params or {}).items():
            if name != "self" and not name.startswith("_"):
                setattr(self, name, value)

    def _rand_range(self, low=1.0, high=None, size=None):
        """Return a random number in [low, high), or in [0, low) without ``high``."""
        low, high = (0, low) if high is None else (low, high)
        return np.random.uniform(low, high, [] if size is None else size)

    def get_transform(self, *args) -> Transform:
        raise NotImplementedError

    def __call__(self, aug_input) -> Transform:
        """Transform ``aug_input`` in place and return the transform.

        Raises:
            AssertionError: if ``get_transform`` does not return a transform.
            AttributeError: if ``aug_input`` lacks an attribute that ``get_transform`` needs.
            TypeError: if ``get_transform`` has a variable number of arguments.
        """
        if self.input_args is None:
            self.input_args = self._names_of_inputs()
        transform = self.get_transform(*(getattr(aug_input, name) for name in self.input_args))
        if not isinstance(transform, (Transform, TransformList)):
            raise AssertionError(f"{type(self)}.get_transform must return a Transform, got {transform!r}")
        aug_input.transform(transform)
        return transform

    def _names_of_inputs(self) -> tuple[str, ...]:
        parameters = inspect.signature(self.get_transform).parameters
        if len(parameters) == 1:
            return ("image",)
        if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
            raise TypeError(
                f"{type(self)}.get_transform has a variable number of arguments. Name them, or implement __call__."
            )
        return tuple(parameters)

    def __repr__(self):
        """Return the call that creates the augmentation, with the arguments that differ from their defaults.

        Falls back to ``object.__repr__`` if the attributes are not named after the arguments.
        """
        parameters = inspect.signature(self.__init__).parameters.values()
        if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) or not hasattr(self, p.name) for p in parameters):
            return super().__repr__()
        arguments = {p.name: getattr(self, p.name) for p in parameters if getattr(self, p.name) is not p.default}
        texts = {name: pprint.pformat(value) for name, value in arguments.items()}
        formatted = (f"{name}={'...' if chr(10) in text else text}" for name, text in texts.items())
        return f"{type(self).__name__}({', '.join(formatted)})"

    __str__ = __repr__


class _FixedTransform(Augmentation):
    """A policy that always returns the same transform."""

    def __init__(self, tfm: Transform):
        self.tfm = tfm

    def get_transform(self, *args):
        return self.tfm

    def __repr__(self):
        return repr(self.tfm)

    __str__ = __repr__


class AugmentationList(Augmentation):
    """A sequence of augmentations, each applied to the output of the previous one."""

    def __init__(self, augs):
        """Create the list.

        Args:
            augs: augmentations or transforms.

        Raises:
            AssertionError: if an entry is neither an augmentation nor a transform.
        """
        super().__init__()
        for aug in augs:
            if not isinstance(aug, (Transform, Augmentation)):
                raise AssertionError(f"AugmentationList needs augmentations or transforms, got {aug!r}")
        self.augs = [aug if isinstance(aug, Augmentation) else _FixedTransform(aug) for aug in augs]

    def __call__(self, aug_input) -> TransformList:
        return TransformList([aug(aug_input) for aug in self.augs])

    def __repr__(self):
        return f"AugmentationList[{', '.join(map(str, self.augs))}]"

    __str__ = __repr__


class AugInput:
    """The arrays that augmentations transform together.

    Attributes:
        image: array of shape (H, W) or (H, W, C), uint8 or floating point.
        boxes: array of shape (N, 4), absolute XYXY, or None.
        sem_seg: array of labels of shape (H, W), or None.
    """

    def __init__(self, image, *, boxes=None, sem_seg=None):
        """Store the arrays.

        Raises:
            AssertionError: if the image is not an array of two or three dimensions.
        """
        if not isinstance(image, np.ndarray) or image.ndim not in (2, 3):
            raise AssertionError(
                f"An image must be an array of shape (H, W) or (H, W, C), got {getattr(image, 'shape', type(image))}"
            )
        self.image, self.boxes, self.sem_seg = image, boxes, sem_seg

    def transform(self, tfm: Transform) -> None:
        """Apply a transform to all attributes, in place."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(self, augmentations) -> TransformList:
        """Apply augmentations in place and return their transforms."""
        return AugmentationList(augmentations)(self)
