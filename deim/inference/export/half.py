"""Conversion of ONNX files to float16, except for values that overflow."""

import copy
from pathlib import Path
from typing import Any

import numpy as np

from deim.errors import ConfigError
from deim.inference.export.graph import example
from deim.inference.export.plugin import define_plugin
from deim.layers.ops.plugin import OPERATOR

# Largest float16 value, and the fraction of it that values on sample images may reach; other images may exceed them.
_LARGEST, _SHARE = 65504.0, 0.1
# ONNX's code of float32, and the suffix of the casts to float16 that the converter inserts.
_FLOAT, _INSERTED = 1, "_cast_to_fp16_node"
# Operators that need more precision than float16 has.
_IN_SINGLE = ("TopK", "GridSample", "Range", "Resize", OPERATOR)


def to_half(path: str | Path) -> None:
    """Convert an ONNX file to float16, in place; inputs and outputs keep their dtypes.

    The file is run on noise, and nodes with an input or output beyond a tenth of float16's range stay in float32.
    Values beyond the range would become Inf, and the model would find nothing.

    Raises:
        ConfigError: if ONNX Runtime is not installed.
    """
    try:
        import onnx
        from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    except ImportError as error:
        raise ConfigError(f"float16 requires the package {error.name}: pip install '.[export]'") from error
    model = onnx.load(str(path))
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{index}"
    large = _large_values(model)
    kept = [node.name for node in model.graph.node if large & {*node.input, *node.output}]
    converted = convert_float_to_float16(
        model,
        max_finite_val=_LARGEST,
        keep_io_types=True,
        node_block_list=kept,
        op_block_list=sorted({*DEFAULT_OP_BLOCK_LIST, *_IN_SINGLE}),
    )
    _join_casts(converted.graph)
    onnx.save(converted, str(path))


def _join_casts(graph: Any) -> None:
    """Remove casts to float16 and back between float32 nodes: the values between them would overflow."""
    producers = {name: node for node in graph.node for name in node.output}
    direct: dict[str, str] = {}
    for node in graph.node:
        before = producers.get(node.input[0]) if node.op_type == "Cast" else None
        if before is not None and before.name.endswith(_INSERTED) and _target(node) == _FLOAT:
            direct[node.output[0]] = before.input[0]
    for node in graph.node:
        node.input[:] = [direct.get(name, name) for name in node.input]
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [node for node in graph.node if node.op_type != "Cast" or used & set(node.output)]
    del graph.node[:]
    graph.node.extend(kept)


def _target(cast: Any) -> int:
    return next(attribute.i for attribute in cast.attribute if attribute.name == "to")


def _large_values(model: Any) -> set[str]:
    """Return the names of the values in a graph that are too large for float16."""
    import onnx
    import onnxruntime

    watched = copy.deepcopy(model)
    known = {value.name for value in watched.graph.output}
    for node in watched.graph.node:
        watched.graph.output.extend(
            onnx.ValueInfoProto(name=name) for name in node.output if name and name not in known
        )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        define_plugin(watched).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    taken = session.get_inputs()[0]
    batch, _, height, width = (side if isinstance(side, int) else None for side in taken.shape)
    images = example(batch or 1, (height or 640, width or 640)).numpy()
    names = [value.name for value in session.get_outputs()]
    found = zip(names, session.run(names, {taken.name: images}), strict=True)
    return {name for name, value in found if _is_large(value)}


def _is_large(value: Any) -> bool:
    if not isinstance(value, np.ndarray) or value.dtype != np.float32 or not value.size:
        return False
    finite = value[np.isfinite(value)]
    return bool(finite.size and np.abs(finite).max() > _SHARE * _LARGEST)
