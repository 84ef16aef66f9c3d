"""Boxes, masks, keypoints, instances and batches of images."""

# The expressions in CALLS use the imports.
# ruff: noqa: F401

import itertools
from typing import Any

import numpy as np
import torch
from detectron2.structures import (
    BitMasks,
    Boxes,
    BoxMode,
    ImageList,
    Instances,
    Keypoints,
    PolygonMasks,
    polygons_to_bitmask,
)

NAN, INF = float("nan"), float("inf")
XYXY, XYWH, REL, ANGLE = BoxMode.XYXY_ABS, BoxMode.XYWH_ABS, BoxMode.XYXY_REL, BoxMode.XYWHA_ABS

LISTS = ("[1, 2, 4, 8]", "(1, 2, 4, 8)", "[1.5, 2, 4, 8]", "(0.1, 0.2, 0.3, 0.7)", "[-3, -2, -1, 0]", "[NAN, 0, 1, 2]")
WRONG_LISTS = ("[1, 2, 3]", "[]", "[1, 2, 3, 4, 5]", "[[1, 2, 4, 8]]", "'abcd'", "None")
ARRAYS = tuple(f"np.array([[1, 2, 4, 8], [0, 0, 0, 0]], dtype='{d}')" for d in ("int32", "int64", "float32", "float64"))
TENSORS = tuple(
    f"torch.tensor([[1, 2, 4, 8]], dtype=torch.{d})" for d in ("int32", "int64", "float16", "float32", "float64")
)
EMPTY = (
    "np.zeros((0, 4))",
    "torch.zeros(0, 4)",
    "np.zeros(4)",
    "torch.zeros(4)",
    "torch.zeros(2, 3)",
    "torch.zeros(2, 3, 4)",
)
MODES = tuple(itertools.permutations(("XYXY", "XYWH"), 2))
OTHER_MODES = (
    ("XYXY", "XYXY"),
    ("XYXY", "REL"),
    ("REL", "XYXY"),
    ("XYXY", "ANGLE"),
    ("XYXY", "7"),
    ("0", "1"),
    ("1", "0"),
)

BOXES = (
    "[[0, 0, 2, 3]]",
    "[[0.5, 0, 2, 3], [5, 5, 5, 9]]",
    "[]",
    "[[]]",
    "torch.zeros(0, 4)",
    "torch.zeros(0)",
    "torch.zeros(0, 5)",
    "torch.zeros(2, 5)",
    "torch.zeros(4)",
    "torch.zeros(1, 2, 4)",
    "np.array([[0, 0, 2, 3]])",
    "np.array([[0, 0, 2.5, 3]])",
    "torch.tensor([[0, 0, 2, 3]])",
    "torch.tensor([[0, 0, 2.5, 3]], dtype=torch.float16)",
    "torch.tensor([[0, 0, 2.1, 3]], dtype=torch.float64)",
    "((0, 0, 1, 1),)",
    "None",
    "'text'",
)


def call_method(value: Any, method: str, *args: Any) -> tuple[Any, Any]:
    """Return the result of a method call, and the object after the call."""
    return getattr(value, method)(*args), value


def make_instances(**fields: Any) -> Instances:
    return Instances((10, 20), **({"scores": torch.arange(3.0), "names": ["a", "b", "c"]} | fields))


def copied_when_converted(box: Any) -> tuple[Any, bool]:
    """Return the argument after a conversion, and whether converting to the same mode returns the argument itself."""
    BoxMode.convert(box, XYWH, XYXY)
    return box, BoxMode.convert(box, XYWH, XYWH) is box


def shares_memory(boxes: Any, tensor: torch.Tensor) -> bool:
    return boxes.tensor.data_ptr() == tensor.data_ptr()


THREE_BOXES = "Boxes([[0, 0, 2, 3], [-5, -5, 30, 40], [4, 4, 4, 9]])"
INDICES = (
    *("0", "-1", "2", "3", "-4", "slice(1, 3)", "slice(0, 0)", "[0, 2]", "[]", "torch.tensor([2, 0])", "np.array([1])"),
    *(
        "torch.tensor([True, False, True])",
        "torch.tensor([False] * 3)",
        "np.array([True, False, False])",
        "torch.tensor(1)",
    ),
    *("True", "None", "1.0", "'a'", "torch.tensor([True])", "(0, 1)", "np.int64(1)", "Ellipsis"),
)
TRIANGLE = "np.array([1.0, 1, 6, 1, 6, 5])"
SQUARE = "np.array([2.5, 0.25, 9, 0.25, 9, 4, 2.5, 4])"
THREE_BITMASKS = "BitMasks(torch.tensor([[[0, 1], [1, 1], [0, 0]], [[0, 0]] * 3, [[1, 1]] * 3]))"
THREE_POLYGONS = f"PolygonMasks([[{TRIANGLE}], [], [{SQUARE}, {TRIANGLE}]])"
THREE_KEYPOINTS = "Keypoints(torch.arange(18).reshape(3, 2, 3))"
MASK_ARRAYS = (
    *("torch.zeros(2, 3, 4)", "torch.ones(2, 3, 4, dtype=torch.uint8)", "np.ones((1, 2, 2))", "np.zeros((0, 2, 3))"),
    *("[[[0, 1], [2, 0]]]", "torch.zeros(3, 4)", "torch.zeros(1, 1, 3, 4)", "[]", "None"),
)
POLYGONS = (
    *("[]", "[[]]", f"[[{TRIANGLE}]]", f"[[{SQUARE}, {TRIANGLE}], []]", "[[[1, 2, 3, 4, 5, 6]]]"),
    *("[[torch.arange(6)]]", "[[np.arange(6)]]", "[[np.arange(4)]]", "[[np.arange(7)]]", "[np.arange(6)]"),
    *("np.zeros((1, 1, 6))", "None", "[[[]]]", "((),)", "[([1, 2, 3, 4, 5, 6],)]"),
)
KEYPOINTS = (
    *(
        "torch.zeros(2, 4, 3)",
        "np.zeros((2, 4, 3))",
        "[[[1, 2, 0]]]",
        "torch.zeros(0, 4, 3)",
        "torch.ones(1, 2, 3).double()",
    ),
    *("torch.zeros(2, 4)", "torch.zeros(2, 4, 2)", "[]", "None", "np.ones((1, 1, 3), dtype='int64')"),
)
# Indices of a list of polygons.
POLYGON_INDICES = (
    *("0", "-1", "2", "3", "-4", "slice(1, 3)", "slice(0, 0)", "[0, 2]", "[]", "torch.tensor([2, 0])"),
    *("torch.tensor([True, False, True])", "torch.tensor([False] * 3)", "torch.tensor([True])", "torch.tensor([1.0])"),
    *("torch.tensor([2, 0], dtype=torch.int32)", "torch.ones(3, 3, dtype=torch.bool)", "[5]"),
)
IMAGES = {
    "one": "[torch.ones(3, 4, 6)]",
    "two": "[torch.ones(3, 4, 6), torch.ones(3, 5, 2)]",
    "gray": "[torch.ones(4, 6), torch.ones(5, 2)]",
    "bytes": "[torch.ones(3, 4, 6, dtype=torch.uint8)] * 2",
    "tuple": "(torch.ones(3, 4, 6), torch.ones(3, 5, 2))",
    "five": "[torch.ones(2, 3, 4, 6), torch.ones(2, 3, 5, 2)]",
}
PADDING = (
    *("", ", 4", ", 0", ", 1", ", -1", ", size_divisibility=32", ", 2, 7.0", ", pad_value=-1"),
    ", padding_constraints={'square_size': 8}",
    ", padding_constraints={'square_size': 0}",
    ", padding_constraints={'size_divisibility': 8}",
    ", 4, padding_constraints={'size_divisibility': 3, 'square_size': 7}",
    ", padding_constraints={}",
    ", padding_constraints={'square_size': 3}",
)

CALLS = [
    *(f"BoxMode.convert({box}, {a}, {b})" for box in (*LISTS, *ARRAYS, *TENSORS) for a, b in MODES),
    *(f"BoxMode.convert({box}, XYWH, XYXY)" for box in (*WRONG_LISTS, *EMPTY)),
    *(f"BoxMode.convert([1, 2, 4, 8], {a}, {b})" for a, b in OTHER_MODES),
    "BoxMode.convert(np.array([[1.0, 2, 4, 8]]), XYWH, REL)",
    "copied_when_converted([1, 2, 3, 4])",
    "copied_when_converted(np.array([[1, 2, 3, 4]]))",
    "copied_when_converted(torch.tensor([[1, 2, 3, 4]]))",
    "list(BoxMode)",
    "repr(BoxMode.XYXY_ABS), str(BoxMode.XYWH_ABS), BoxMode(1), BoxMode.XYXY_ABS == 0",
    "BoxMode(9)",
    *(f"Boxes({boxes})" for boxes in BOXES),
    *(f"Boxes({boxes}).{call}" for boxes in BOXES[:5] for call in ("area()", "nonempty()", "clone()", "device", "__len__()")),
    *(f"Boxes({boxes}).to('cpu')" for boxes in BOXES[:3]),
    "Boxes([[0, 0, 1, 1]]).to(torch.float64)",
    "repr(Boxes([[0, 0, 1, 2]])), str(Boxes([[0, 0, 1, 2]]))",
    f"list({THREE_BOXES})",
    *(f"{THREE_BOXES}[{index}]" for index in INDICES),
    *(f"call_method({THREE_BOXES}, 'clip', {size})" for size in ("(10, 20)", "[10, 20]", "(0, 0)", "(10.5, 20.25)", "(-1, 4)", "(1,)")),
    *(f"call_method(Boxes([[0, 0, {value}, 1]]), 'clip', (4, 4))" for value in ("NAN", "INF", "-INF", "1e38")),
    "call_method(Boxes([]), 'clip', (4, 4))",
    *(f"{THREE_BOXES}.nonempty({value})" for value in ("1", "threshold=2.5", "-1", "0")),
    "Boxes([[0, 0, NAN, 1]]).nonempty()",
    *(f"call_method({THREE_BOXES}, 'scale', {factors})" for factors in ("2, 3", "0.5, 0.25", "0, 0", "-1, 1")),
    f"Boxes.cat([{THREE_BOXES}, Boxes([[1, 1, 2, 2]])])",
    "Boxes.cat([])",
    f"Boxes.cat([{THREE_BOXES}])",
    f"Boxes.cat(({THREE_BOXES},))",
    f"Boxes.cat([{THREE_BOXES}, torch.zeros(1, 4)])",
    "shares_memory(Boxes(TENSOR), TENSOR)",
    "shares_memory(Boxes(TENSOR)[1:], TENSOR[1:])",
    "shares_memory(Boxes(TENSOR).clone(), TENSOR)",
    *(f"BitMasks({masks})" for masks in MASK_ARRAYS),
    *(f"{THREE_BITMASKS}[{index}]" for index in INDICES),
    *(f"{THREE_BITMASKS}.{call}" for call in ("nonempty()", "get_bounding_boxes()", "device", "__len__()", "image_size", "to('cpu')", "to(torch.uint8)")),
    f"repr({THREE_BITMASKS}), list({THREE_BITMASKS})",
    *(f"{name}(torch.zeros(0, 3, 3)).{call}" for name in ("BitMasks", "Keypoints") for call in ("__len__()", "device")),
    "BitMasks(torch.zeros(0, 3, 4)).nonempty(), BitMasks(torch.zeros(0, 3, 4)).get_bounding_boxes()",
    f"BitMasks.cat([{THREE_BITMASKS}, {THREE_BITMASKS}])",
    f"BitMasks.cat([{THREE_BITMASKS}, BitMasks(torch.zeros(1, 2, 2))])",
    *(f"{name}.cat({values})" for name in ("BitMasks", "PolygonMasks", "Keypoints") for values in ("[]", "[None]", "None", "[torch.zeros(1, 2, 3)]")),
    *(f"BitMasks.from_polygon_masks({polygons}, 6, 10)" for polygons in (*POLYGONS[2:4], THREE_POLYGONS, "[]", "[[]]")),
    f"polygons_to_bitmask([{SQUARE}, {TRIANGLE}], 6, 10), polygons_to_bitmask([], 2, 3)",
    *(f"PolygonMasks({polygons})" for polygons in POLYGONS),
    *(f"{THREE_POLYGONS}[{index}]" for index in POLYGON_INDICES),
    *(f"{THREE_POLYGONS}.{call}" for call in ("nonempty()", "get_bounding_boxes()", "device", "__len__()", "to('nowhere')")),
    f"repr({THREE_POLYGONS}), list({THREE_POLYGONS})",
    f"PolygonMasks.cat([{THREE_POLYGONS}, PolygonMasks([[]])])",
    "PolygonMasks([]).nonempty(), PolygonMasks([]).get_bounding_boxes()",
    *(f"Keypoints({keypoints})" for keypoints in KEYPOINTS),
    *(f"{THREE_KEYPOINTS}[{index}]" for index in INDICES if index.lstrip("-") not in ("0", "1", "2", "True")),
    f"{THREE_KEYPOINTS}.device, len({THREE_KEYPOINTS}), {THREE_KEYPOINTS}.to('cpu'), repr({THREE_KEYPOINTS})",
    f"Keypoints.cat([{THREE_KEYPOINTS}, Keypoints(torch.zeros(1, 2, 3))])",
    f"Keypoints.cat([{THREE_KEYPOINTS}, Keypoints(torch.zeros(1, 4, 3))])",
    *(f"make_instances(names={masks})[torch.tensor([True, False, True])]" for masks in (THREE_BITMASKS, THREE_POLYGONS, THREE_KEYPOINTS)),
    *(f"Instances.cat([make_instances(names={masks})] * 2)" for masks in (THREE_BITMASKS, THREE_POLYGONS, THREE_KEYPOINTS)),
    *(f"make_instances(names={masks}).to('cpu')" for masks in (THREE_BITMASKS, THREE_POLYGONS, THREE_KEYPOINTS)),
    "Instances((10, 20))",
    "Instances((10, 20), scores=torch.zeros(2), boxes=Boxes(torch.zeros(2, 4)))",
    "Instances(image_size=(10, 20))",
    "Instances((10, 20), scores=torch.zeros(2), classes=torch.zeros(3))",
    "Instances((10, 20), scores=torch.zeros(()))",
    "Instances((10, 20), scores=3)",
    "len(Instances((10, 20)))",
    "len(Instances((10, 20), scores=torch.zeros(0)))",
    "len(Instances((10, 20), scores=[]))",
    "list(Instances((10, 20), scores=torch.zeros(2)))",
    "'scores' in make_instances()",
    "[x for x in make_instances()]",
    "make_instances().scores, make_instances().get('names'), make_instances().has('x'), make_instances().has('names'), make_instances().image_size",
    "make_instances().nothing",
    "make_instances().get('nothing')",
    "call_method(make_instances(), 'remove', 'names')",
    "call_method(make_instances(), 'remove', 'nothing')",
    "call_method(make_instances(), 'set', 'classes', [1, 2, 3])",
    "call_method(make_instances(), 'set', 'classes', [1, 2])",
    "call_method(make_instances(), 'set', 'scores', torch.ones(3))",
    "call_method(make_instances(), 'set', 'scores', torch.ones(4))",
    "call_method(make_instances(), '__setattr__', 'classes', [1, 2, 3])",
    "call_method(make_instances(), '__setattr__', 'classes', [1])",
    "call_method(make_instances(), '__setattr__', 'image_size', [1, 2, 3])",
    "call_method(Instances((1, 2)), '__setattr__', '_private', 5)",
    "make_instances()._private",
    *(f"make_instances()[{index}]" for index in INDICES),
    *(f"make_instances(names=torch.arange(3))[{index}]" for index in INDICES),
    f"make_instances(names={THREE_BOXES})[torch.tensor([True, False, True])]",
    "make_instances(names=torch.arange(3)).to('cpu')",
    "make_instances(names=torch.arange(3)).to(torch.float64)",
    f"make_instances(names={THREE_BOXES}).to('cpu')",
    "make_instances().to(torch.device('cpu'))",
    "make_instances().to('nowhere')",
    "Instances.cat([make_instances(), make_instances()])",
    "Instances.cat([make_instances()])",
    "Instances.cat([])",
    "Instances.cat((make_instances(), make_instances()))",
    f"Instances.cat([make_instances(names={THREE_BOXES}), make_instances(names={THREE_BOXES})])",
    "Instances.cat([make_instances(), Instances((11, 20), scores=torch.zeros(1), names=['d'])])",
    "Instances.cat([make_instances(), Instances([10, 20], scores=torch.zeros(1), names=['d'])])",
    "Instances.cat([make_instances(), Instances((10, 20), scores=torch.zeros(1))])",
    "Instances.cat([Instances((10, 20), scores=torch.zeros(1)), make_instances()])",
    "Instances.cat([Instances((10, 20), a=(1, 2)), Instances((10, 20), a=(3,))])",
    "Instances.cat([Instances((10, 20)), Instances((10, 20))])",
    "Instances.cat([Instances((10, 20), a=np.zeros(1)), Instances((10, 20), a=np.zeros(2))])",
    "Instances.cat([1, 2])",
    "repr(make_instances()), str(make_instances(names=Boxes(torch.zeros(3, 4))))",
    "repr(Instances((10, 20)))",
    "sorted(make_instances().get_fields()), INSTANCES.get_fields() is INSTANCES.get_fields()",
    "__import__('copy').deepcopy(make_instances())",
    "__import__('pickle').loads(__import__('pickle').dumps(make_instances()))",
    "__import__('copy').deepcopy(Boxes([[0, 0, 1, 1]]))",
    *(f"ImageList.from_tensors({images}{padding})" for images in IMAGES.values() for padding in PADDING[:6]),
    *(f"ImageList.from_tensors({IMAGES['two']}{padding})" for padding in PADDING[6:]),
    *(f"ImageList.from_tensors({IMAGES['one']}{padding})" for padding in PADDING[6:]),
    "ImageList.from_tensors([])",
    "ImageList.from_tensors(torch.ones(2, 3, 4, 4))",
    "ImageList.from_tensors([np.ones((3, 4, 4))])",
    "ImageList.from_tensors([torch.ones(3, 4, 4), torch.ones(1, 4, 4)])",
    "ImageList.from_tensors([torch.ones(3, 0, 4)])",
    "ImageList.from_tensors([torch.ones(3, 4, 4), torch.ones(3, 4, 4).double()])",
    "ImageList.from_tensors(iter([torch.ones(3, 4, 4)]))",
    f"ImageList.from_tensors({IMAGES['two']})[1]",
    f"ImageList.from_tensors({IMAGES['two']})[-1]",
    f"ImageList.from_tensors({IMAGES['two']})[2]",
    f"ImageList.from_tensors({IMAGES['two']})[0:2]",
    f"len(ImageList.from_tensors({IMAGES['two']}))",
    f"list(ImageList.from_tensors({IMAGES['two']}))",
    f"ImageList.from_tensors({IMAGES['two']}).to(torch.float64)",
    f"ImageList.from_tensors({IMAGES['two']}).to('cpu', dtype=torch.float16)",
    f"ImageList.from_tensors({IMAGES['two']}).device",
    "ImageList(torch.ones(1, 3, 4, 4), [(2, 3)])[0]",
    "ImageList(torch.ones(1, 3, 4, 4), [(2, 3)])",
]  # fmt: skip

TENSOR = torch.arange(8.0).reshape(2, 4)
INSTANCES = make_instances()
