"""Constant folding of split weights in ONNX models."""

from typing import Any

import numpy as np


def store_parts(model: Any) -> None:
    """Replace ``Split`` nodes with constant inputs by their results, in place.

    CPU runtimes fold them when loading the file, but TensorRT accepts the weights of a convolution as constants only
    if they are stored as such.
    """
    from onnx import numpy_helper

    graph, known = model.graph, _constants(model.graph)
    divided = [node for node in graph.node if node.op_type == "Split" and _is_known(node, known)]
    for node in divided:
        for name, part in zip(node.output, _parts(node, known), strict=True):
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(part), name))
        graph.node.remove(node)
    needed = {name for node in graph.node for name in node.input}
    unneeded = {name for node in divided for name in node.input} - needed
    for initializer in [one for one in graph.initializer if one.name in unneeded]:
        graph.initializer.remove(initializer)


def _constants(graph: Any) -> dict[str, np.ndarray]:
    from onnx import numpy_helper

    stored = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]
    return stored | {node.output[0]: numpy_helper.to_array(node.attribute[0].t) for node in nodes}


def _is_known(node: Any, known: dict[str, np.ndarray]) -> bool:
    return len(node.input) == 2 and all(name in known for name in node.input)


def _parts(node: Any, known: dict[str, np.ndarray]) -> list[np.ndarray]:
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    whole, sizes = (known[name] for name in node.input)
    return np.split(whole, np.cumsum(sizes)[:-1], axis)
