"""Augmentations and their transforms."""

# The expressions in CALLS use the imports.
# ruff: noqa: F401

from typing import Any

import numpy as np
from detectron2.data import transforms as T
from PIL import Image

IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
GRAY = IMAGE[..., 0].copy()
COLUMN = IMAGE[..., :1].copy()
SQUARE = np.zeros((5, 5, 3), np.uint8)
BOXES = np.array([[0.0, 0, 2, 3], [1, 1, 1, 1], [-4, -4, 20, 20]])


def apply_policy(policy: Any, image: np.ndarray = IMAGE, **options: Any) -> tuple:
    """Return the transform of a policy, and the transformed input."""
    aug_input = T.AugInput(image.copy(), **options)
    transform = policy(aug_input)
    return transform, aug_input.image, aug_input.boxes, aug_input.sem_seg


def sample_transforms(policy: Any, image: np.ndarray = IMAGE) -> list:
    """Return consecutive samples of a policy; the generator is seeded before each expression."""
    return [policy.get_transform(image) for _ in range(8)]


def attributes(policy: Any) -> dict:
    return {name: value for name, value in vars(policy).items() if name != "augs"}


def modifies_in_place(transform: T.Transform) -> bool:
    """Return whether coordinates are modified in place."""
    points = np.array([[1.0, 2.0]])
    return transform.apply_coords(points) is points


class Both(T.Augmentation):
    def get_transform(self, image: np.ndarray, boxes: np.ndarray) -> T.Transform:
        return T.HFlipTransform(len(boxes))


class Unusual(T.Augmentation):
    """A policy whose only argument is not named "image"; detectron2 passes the image nevertheless."""

    def __init__(self, size: int = 3, *, other: Any = None):
        self._init(locals())

    def get_transform(self, img: np.ndarray) -> T.Transform:
        return T.HFlipTransform(img.shape[1] + self.size)


class Attribute(T.Augmentation):
    input_args = ("sem_seg",)

    def get_transform(self, anything: Any) -> T.Transform:
        return T.HFlipTransform(anything.shape[1])


class Missing(T.Augmentation):
    def get_transform(self, image: np.ndarray, depth: Any) -> T.Transform:
        return T.NoOpTransform()


class Variable(T.Augmentation):
    def get_transform(self, *args: Any) -> T.Transform:
        return T.NoOpTransform()


class WithDefault(T.Augmentation):
    def get_transform(self, image: np.ndarray, boxes: Any = None) -> T.Transform:
        return T.NoOpTransform()


class Wrong(T.Augmentation):
    def get_transform(self, image: np.ndarray) -> Any:
        return "no transform"


class NoArguments(T.Augmentation):
    def get_transform(self) -> T.Transform:
        return T.HFlipTransform(6)


class Unnamed(T.Augmentation):
    """A policy without attributes named after its arguments, so that ``repr`` falls back to ``object.__repr__``."""

    def __init__(self, size: int = 3):
        self.other = size


class Random(T.Augmentation):
    def draw(self, *args: Any) -> Any:
        return self._rand_range(*args)


RESIZE = "T.ResizeTransform(4, 6, 8, 3)"
POLICIES = (
    "T.RandomFlip()",
    "T.RandomFlip(1.0)",
    "T.RandomFlip(prob=0.0)",
    "T.RandomFlip(1.0, horizontal=False, vertical=True)",
    "T.RandomFlip(0.3, horizontal=True)",
    "T.Resize((8, 3))",
    "T.Resize([8, 3])",
    "T.Resize(5)",
    "T.Resize(shape=(8, 3), interp=Image.NEAREST)",
    "T.Resize((8, 3), Image.BICUBIC)",
    "T.ResizeShortestEdge(8)",
    "T.ResizeShortestEdge(8, 9)",
    "T.ResizeShortestEdge([6, 9], 20)",
    "T.ResizeShortestEdge((6, 9), sample_style='choice')",
    "T.ResizeShortestEdge([3], 20, 'choice')",
    "T.ResizeShortestEdge(0)",
    "T.ResizeShortestEdge(7, interp=Image.NEAREST)",
)
TRANSFORMS = (
    RESIZE,
    "T.ResizeTransform(4, 6, 4, 6)",
    "T.ResizeTransform(4, 6, 2, 2, Image.NEAREST)",
    "T.ResizeTransform(h=4, w=6, new_h=9, new_w=9, interp=Image.BICUBIC)",
    "T.HFlipTransform(6)",
    "T.NoOpTransform()",
    "T.TransformList([T.HFlipTransform(6), T.ResizeTransform(4, 6, 8, 3)])",
    "T.TransformList([])",
)

CALLS = [
    *(f"repr({p}), str({p}), attributes({p})" for p in POLICIES),
    *(f"apply_policy({p})" for p in POLICIES),
    *(f"apply_policy({p}, boxes=BOXES.copy(), sem_seg=GRAY.copy())" for p in POLICIES),
    *(f"sample_transforms({p})" for p in POLICIES if "Resize(" not in p),
    *(f"apply_policy({p}, {image})" for p in POLICIES[5:12] for image in ("GRAY", "COLUMN", "SQUARE", "IMAGE.astype('float32')")),
    *(
        call
        for call in (
            "T.RandomFlip(0.5, horizontal=True, vertical=True)",
            "T.RandomFlip(0.5, horizontal=False)",
            "T.RandomFlip(0.5, True)",
            "attributes(T.RandomFlip(2.0))",
            "T.Resize((8,))",
            "T.Resize(8.0)",
            "T.Resize('ab')",
            "T.Resize(None)",
            "attributes(T.Resize((8, 3, 2)))",
            "apply_policy(T.Resize((8,)))",
            "apply_policy(T.Resize((8.5, 3)))",
            "apply_policy(T.Resize((0, 3)))",
            "apply_policy(T.Resize((-1, 3)))",
            "T.ResizeShortestEdge([1, 2, 3])",
            "T.ResizeShortestEdge(8, sample_style='other')",
            "T.ResizeShortestEdge(8.5)",
            "apply_policy(T.ResizeShortestEdge([9, 6]))",
            "apply_policy(T.ResizeShortestEdge([], sample_style='choice'))",
            "attributes(T.ResizeShortestEdge(8, sample_style='choice'))",
        )
    ),
    *(
        f"T.ResizeShortestEdge.get_output_shape({args})"
        for args in ("480, 640, 800, 1333", "640, 480, 800, 1333", "427, 640, 800, 1333", "5, 1000, 800, 1333", "7, 7, 3, 2", "333, 500, 801, 1200")
    ),
    *(f"{t}.apply_image(IMAGE)" for t in TRANSFORMS),
    *(f"{t}.apply_image(GRAY)" for t in TRANSFORMS),
    *(f"{t}.apply_image(COLUMN)" for t in TRANSFORMS),
    *(f"{t}.apply_image(IMAGE.astype('{d}'))" for t in TRANSFORMS for d in ("float32", "float64", "int32", "bool")),
    *(f"{t}.apply_image(IMAGE[:, ::-1])" for t in TRANSFORMS[:3]),
    *(f"{t}.apply_image(IMAGE.astype('float32')[:, ::-1])" for t in TRANSFORMS[:3]),
    *(f"{t}.apply_image(SQUARE)" for t in TRANSFORMS),
    *(f"{t}.apply_segmentation(GRAY)" for t in TRANSFORMS),
    *(f"{t}.apply_segmentation(GRAY.astype('int64'))" for t in TRANSFORMS[:4]),
    *(f"{t}.apply_coords(BOXES[:, :2].copy())" for t in TRANSFORMS),
    *(f"{t}.apply_coords(np.array([[1, 2]]))" for t in TRANSFORMS[:5]),
    *(f"{t}.apply_box(BOXES.copy())" for t in TRANSFORMS),
    *(f"{t}.apply_box([0, 0, 2, 3])" for t in TRANSFORMS),
    *(f"{t}.apply_box(np.zeros((0, 4)))" for t in TRANSFORMS),
    *(f"{t}.apply_polygons([BOXES[:, :2].copy()])" for t in TRANSFORMS),
    *(f"{t}.inverse().apply_box(BOXES.copy())" for t in TRANSFORMS),
    *(f"repr({t})" for t in TRANSFORMS[:6]),
    *(f"modifies_in_place({t})" for t in TRANSFORMS),
    f"vars({RESIZE})",
    f"{RESIZE}.apply_image(IMAGE, interp=Image.NEAREST)",
    f"{RESIZE}.apply_image(IMAGE, Image.BICUBIC)",
    f"{RESIZE}.apply_image(IMAGE.astype('float32'), Image.LANCZOS)",
    f"{RESIZE}.apply_image(None)",
    f"{RESIZE} + T.HFlipTransform(3)",
    f"len(T.TransformList([{RESIZE}, T.HFlipTransform(3)]))",
    "apply_policy(Both(), boxes=BOXES.copy())",
    "apply_policy(Unusual())",
    "apply_policy(Attribute(), sem_seg=GRAY.copy())",
    *(f"apply_policy({kind}())" for kind in ("Missing", "Variable", "WithDefault", "Wrong", "NoArguments", "T.Augmentation")),
    *(f"{kind}().input_args" for kind in ("Unusual", "Attribute", "T.RandomFlip")),
    "repr(Unusual()), repr(Unusual(3)), repr(Unusual(4, other='x')), repr(Both()).split(' at ')[0], str(Unusual(other=list(range(100))))",
    "'Unnamed object' in repr(Unnamed())",
    "T.RandomFlip()._rand_range() <= 1.0, Random().draw(3), Random().draw(2, 5), Random().draw(0, 1, (2,)), Random().draw()",
    "apply_policy(T.AugmentationList([T.RandomFlip(1.0), T.Resize((8, 3))]), boxes=BOXES.copy())",
    f"apply_policy(T.AugmentationList([{RESIZE}, T.RandomFlip(1.0)]))",
    "apply_policy(T.AugmentationList([T.AugmentationList([T.RandomFlip(1.0)]), T.NoOpTransform()]))",
    "apply_policy(T.AugmentationList([]))",
    "T.AugmentationList([1])",
    "T.AugmentationList([T.TransformList([])])",
    "T.AugmentationList(None)",
    "repr(T.AugmentationList([T.RandomFlip(1.0), T.Resize(3), T.HFlipTransform(3)])), str(T.AugmentationList([]))",
    "T.AugmentationList([T.RandomFlip()]).get_transform(IMAGE)",
    "T.AugInput(IMAGE).apply_augmentations([T.RandomFlip(1.0)])",
    "T.AugInput(IMAGE).apply_augmentations([T.HFlipTransform(6)])",
    "vars(T.AugInput(IMAGE, boxes=BOXES, sem_seg=GRAY))",
    *(f"T.AugInput({image}).image.shape" for image in ("IMAGE.astype('float32')", "IMAGE.astype('int64')", "[1]", "None", "np.zeros((2, 2, 3, 1))", "np.zeros(3)")),
    "T.AugInput(GRAY).image.shape",
    "T.AugInput(IMAGE, BOXES)",
    "T.AugInput(IMAGE).transform(T.NoOpTransform())",
    "T.AugInput(IMAGE).transform(None)",
    "isinstance(T.RandomFlip(), T.Augmentation), isinstance(T.TransformList([]), T.Transform)",
]  # fmt: skip
