"""Random policies that produce deterministic transforms."""

import inspect

from fvcore.transforms.transform import NoOpTransform, Transform, TransformList

__all__ = ["AugInput", "Augmentation", "AugmentationList"]


class Augmentation:
    """A policy: :meth:`get_transform` decides by chance, the transform it returns does not.

    The names of ``get_transform``'s parameters say which attributes of the :class:`AugInput` it
    is given; a single parameter is always the image.
    """

    input_args: tuple[str, ...] | None = None

    def _init(self, params=None):
        """Store the constructor's ``locals()`` as attributes."""
        for name, value in (params or {}).items():
            if name != "self" and not name.startswith("_"):
                setattr(self, name, value)

    def get_transform(self, *args) -> Transform:
        raise NotImplementedError

    def __call__(self, aug_input) -> Transform:
        """Transform ``aug_input`` in place and return the transform."""
        if self.input_args is None:
            names = tuple(inspect.signature(self.get_transform).parameters)
            self.input_args = ("image",) if len(names) == 1 else names
        chosen = self.get_transform(*(getattr(aug_input, name) for name in self.input_args))
        if not isinstance(chosen, (Transform, TransformList)):
            raise AssertionError(f"{type(self)}.get_transform must return a Transform, got {chosen!r}")
        aug_input.transform(chosen)
        return chosen

    def __repr__(self):
        shown = {k: v for k, v in vars(self).items() if k != "input_args" and not k.startswith("_")}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"

    __str__ = __repr__


class _Always(Augmentation):
    """A fixed transform as a policy."""

    def __init__(self, tfm: Transform):
        self.tfm = tfm

    def get_transform(self, image):
        return self.tfm


class AugmentationList(Augmentation):
    """Policies one after the other, each seeing what the one before has made."""

    def __init__(self, augs):
        self.augs = [_Always(aug) if isinstance(aug, Transform) else aug for aug in augs]

    def __call__(self, aug_input) -> TransformList:
        return TransformList([aug(aug_input) for aug in self.augs])


class AugInput:
    """What is augmented together: an image (H, W, C), boxes (N, 4) XYXY and a segmentation (H, W)."""

    def __init__(self, image, *, boxes=None, sem_seg=None):
        self.image, self.boxes, self.sem_seg = image, boxes, sem_seg

    def transform(self, tfm: Transform) -> None:
        """Apply ``tfm`` to every attribute that is set, in place."""
        if isinstance(tfm, NoOpTransform):
            return
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(self, augmentations) -> TransformList:
        return AugmentationList(augmentations)(self)
