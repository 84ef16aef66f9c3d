"""Conversion of ONNX files to float16, except for values that overflow."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deim.errors import ConfigError
from deim.inference.export.graph import SIZES_NAME
from deim.inference.export.plugin import define_plugin
from deim.layers.ops.plugin import OPERATOR

# Largest float16 value, and the fraction of it that float16 values may reach on noise. The rest is a margin, because
# values may be larger on other images.
_FLOAT16_MAX, _SAFE_FRACTION = 65504.0, 0.1
# ONNX's code of float32, and the suffix of the casts to float16 that the converter inserts.
_ONNX_FLOAT32, _CAST_SUFFIX = 1, "_cast_to_fp16_node"
# Operators that need more precision than float16 has.
_FLOAT32_OPERATORS = ("TopK", "GridSample", "Range", "Resize", "RMSNormalization", OPERATOR)
# Operators of the reciprocal root mean square in RMSNorm, before opset 23. The square of a value above 255 overflows.
_ROOT_MEAN_SQUARE = ("Pow", "ReduceMean", "Add", "Sqrt", "Reciprocal")


def to_float16(path: str | Path, example: Mapping[str, np.ndarray]) -> None:
    """Convert an ONNX file to float16, in place; inputs and outputs keep their dtypes.

    The file is run on ``example``, and nodes with an input or output beyond a tenth of float16's range stay in float32.
    Values beyond the range would become Inf, and the model would find nothing. The root mean squares of RMSNorm and
    coordinates in pixels always stay in float32.

    Args:
        example: inputs of the file by name, such as noise.

    Raises:
        ConfigError: if ONNX Runtime is not installed.
    """
    try:
        import onnx
        from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
        from onnxruntime.transformers.onnx_model import OnnxModel
    except ImportError as error:
        raise ConfigError(f"float16 requires the package {error.name}: pip install 'deim[export]'") from error
    model = onnx.load(str(path))
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{index}"
    large_values = _large_values(model, example)
    float32_nodes = [node.name for node in model.graph.node if large_values & {*node.input, *node.output}]
    float32_nodes += _root_mean_squares(model.graph) + _pixel_coordinates(model.graph)
    converted = convert_float_to_float16(
        model,
        max_finite_val=_FLOAT16_MAX,
        keep_io_types=True,
        node_block_list=float32_nodes,
        op_block_list=sorted({*DEFAULT_OP_BLOCK_LIST, *_FLOAT32_OPERATORS}),
    )
    _remove_cast_pairs(converted.graph)
    # The converter appends casts at the end. ONNX requires nodes after those that compute their inputs.
    OnnxModel(converted).topological_sort()
    onnx.save(converted, str(path))


def _root_mean_squares(graph: Any) -> list[str]:
    """Return the names of the nodes that compute reciprocal root mean squares."""
    consumers = {name: node for node in graph.node for name in node.input}
    names: list[str] = []
    for node in graph.node:
        chain: list[str] = []
        current = node
        while current is not None and len(chain) < len(_ROOT_MEAN_SQUARE):
            if current.op_type != _ROOT_MEAN_SQUARE[len(chain)]:
                break
            chain.append(current.name)
            current = consumers.get(current.output[0])
        if len(chain) == len(_ROOT_MEAN_SQUARE):
            names += chain
    return names


def _pixel_coordinates(graph: Any) -> list[str]:
    """Return the names of the nodes whose results depend on the sizes of the original images.

    float16 cannot represent all integers above 2048.
    """
    values, names = {SIZES_NAME}, list[str]()
    for node in graph.node:
        if values & set(node.input) and node.op_type != "Shape":  # the batch size may come from the same input
            values |= set(node.output)
            names.append(node.name)
    return names


def _remove_cast_pairs(graph: Any) -> None:
    """Remove casts to float16 and back between float32 nodes: the values between them would overflow."""
    producers = {name: node for node in graph.node for name in node.output}
    sources: dict[str, str] = {}
    for node in graph.node:
        producer = producers.get(node.input[0]) if node.op_type == "Cast" else None
        if producer is not None and producer.name.endswith(_CAST_SUFFIX) and _cast_dtype(node) == _ONNX_FLOAT32:
            sources[node.output[0]] = producer.input[0]
    for node in graph.node:
        node.input[:] = [sources.get(name, name) for name in node.input]
        if node.output[0] in sources:  # an output of the graph keeps its cast, of the float32 value
            node.input[0] = sources[node.output[0]]
    used_names = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    nodes = [node for node in graph.node if node.op_type != "Cast" or used_names & set(node.output)]
    del graph.node[:]
    graph.node.extend(nodes)


def _cast_dtype(cast: Any) -> int:
    return next(attribute.i for attribute in cast.attribute if attribute.name == "to")


def _large_values(model: Any, example: Mapping[str, np.ndarray]) -> set[str]:
    """Return the names of the values in a graph that are too large for float16 when it runs on ``example``."""
    import onnx
    import onnxruntime

    probe = copy.deepcopy(model)
    output_names = {value.name for value in probe.graph.output}
    for node in probe.graph.node:
        probe.graph.output.extend(
            onnx.ValueInfoProto(name=name) for name in node.output if name and name not in output_names
        )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        define_plugin(probe).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_outputs()]
    outputs = zip(names, session.run(names, dict(example)), strict=True)
    return {name for name, value in outputs if _exceeds_float16(value)}


def _exceeds_float16(value: Any) -> bool:
    if not isinstance(value, np.ndarray) or value.dtype != np.float32 or not value.size:
        return False
    finite = value[np.isfinite(value)]
    return bool(finite.size and np.abs(finite).max() > _SAFE_FRACTION * _FLOAT16_MAX)
