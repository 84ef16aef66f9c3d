"""Constant folding of ``Split`` nodes in ONNX models."""

from typing import Any

import numpy as np


def fold_constant_splits(model: Any) -> None:
    """Replace each ``Split`` node with constant data and sizes by its results, in place.

    CPU runtimes fold such nodes when they load the file. TensorRT accepts the weights of a convolution only if they are
    stored as constants.
    """
    from onnx import numpy_helper

    graph, constants = model.graph, _constants(model.graph)
    splits = [node for node in graph.node if node.op_type == "Split" and _has_constant_inputs(node, constants)]
    for node in splits:
        for name, output in zip(node.output, _split_results(node, constants), strict=True):
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(output), name))
        graph.node.remove(node)
    used_names = {name for node in graph.node for name in node.input}
    unused_names = {name for node in splits for name in node.input} - used_names
    for initializer in [tensor for tensor in graph.initializer if tensor.name in unused_names]:
        graph.initializer.remove(initializer)


def _constants(graph: Any) -> dict[str, np.ndarray]:
    from onnx import numpy_helper

    initializers = {initializer.name: numpy_helper.to_array(initializer) for initializer in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]
    return initializers | {node.output[0]: numpy_helper.to_array(node.attribute[0].t) for node in nodes}


def _has_constant_inputs(node: Any, constants: dict[str, np.ndarray]) -> bool:
    return len(node.input) == 2 and all(name in constants for name in node.input)


def _split_results(node: Any, constants: dict[str, np.ndarray]) -> list[np.ndarray]:
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    weight, sizes = (constants[name] for name in node.input)
    return np.split(weight, np.cumsum(sizes)[:-1], axis)
