"""ONNX definition of TensorRT's deformable-attention plugin, to run and verify files that use it without TensorRT."""

from pathlib import Path
from typing import Any

from deim.layers.ops.plugin import DOMAIN, OPERATOR

# In ONNX's textual syntax. For each of P points of L levels, M heads, Q queries and N images: bilinear interpolation of
# the four surrounding pixels, where pixels outside of the map have weight zero.
_DEFINITION = f"""
<domain: "{DOMAIN}", opset_import: ["": 18]>
{OPERATOR} (value, spatial_shapes, level_start_index, sampling_locations, attention_weights) => (attended)
{{
    zero = Constant <value_float: float = 0.0> ()
    half = Constant <value_float: float = 0.5> ()
    one = Constant <value_float: float = 1.0> ()
    second_third = Constant <value_ints: ints = [1, 2]> ()
    third_fourth = Constant <value_ints: ints = [2, 3]> ()
    second_to_fourth = Constant <value_ints: ints = [1, 2, 3]> ()
    fourth = Constant <value_ints: ints = [3]> ()
    sixth = Constant <value_ints: ints = [5]> ()
    seventh = Constant <value_ints: ints = [6]> ()
    rest = Constant <value_ints: ints = [-1]> ()
    corners = Constant <value = float[4, 2] {{0, 0, 0, 1, 1, 0, 1, 1}}> ()

    real_shapes = Cast <to = 1> (spatial_shapes)
    height, width = Split <axis = 1, num_outputs = 2> (real_shapes)
    width_height = Concat <axis = 1> (width, height)
    sides = Unsqueeze (width_height, second_third)
    locations = Unsqueeze (sampling_locations, sixth)
    scaled = Mul (locations, sides)
    place = Sub (scaled, half)
    floor = Floor (place)
    pixel = Add (floor, corners)

    last = Sub (sides, one)
    not_beyond = Min (pixel, last)
    nearest = Max (not_beyond, zero)
    same = Equal (nearest, pixel)
    same_number = Cast <to = 1> (same)
    inside = ReduceMin <keepdims = 0> (same_number, seventh)
    way = Sub (place, pixel)
    distance = Abs (way)
    nearness = Sub (one, distance)
    share = ReduceProd <keepdims = 0> (nearness, seventh)

    column, row = Split <axis = 6, num_outputs = 2> (nearest)
    real_start = Cast <to = 1> (level_start_index)
    start = Unsqueeze (real_start, second_to_fourth)
    row_length = Unsqueeze (width, third_fourth)
    rows_before = Mul (row, row_length)
    in_row = Add (start, column)
    real_token = Add (in_row, rows_before)
    token = Cast <to = 7> (real_token)
    token_by_head = Transpose <perm = [0, 2, 1, 3, 4, 5, 6]> (token)
    list_of_tokens = Constant <value_ints: ints = [0, 0, -1, 1]> ()
    index = Reshape (token_by_head, list_of_tokens)

    weights = Unsqueeze (attention_weights, sixth)
    shared = Mul (weights, share)
    counted = Mul (shared, inside)
    counted_by_head = Transpose <perm = [0, 2, 1, 3, 4, 5]> (counted)
    row_of_weights = Constant <value_ints: ints = [0, 0, 0, 1, -1]> ()
    factors = Reshape (counted_by_head, row_of_weights)

    value_by_head = Transpose <perm = [0, 2, 1, 3]> (value)
    gathered = GatherND <batch_dims = 2> (value_by_head, index)
    by_query = Shape <end = 3> (factors)
    depth = Shape <start = 3> (value)
    query_shape = Concat <axis = 0> (by_query, rest, depth)
    samples = Reshape (gathered, query_shape)
    product = MatMul (factors, samples)
    by_head = Squeeze (product, fourth)
    attended = Transpose <perm = [0, 2, 1, 3]> (by_head)
}}
"""


def has_plugin(model: Any) -> bool:
    """Return whether an ``onnx.ModelProto`` contains the plugin node."""
    return any(node.op_type == OPERATOR and node.domain == DOMAIN for node in model.graph.node)


def define_plugin(model: Any) -> Any:
    """Add the definition to an ``onnx.ModelProto`` that contains the plugin node, in place, and return the model.

    TensorRT would prefer the definition to its own plugin, so do not add it to files for TensorRT.
    """
    import onnx

    if has_plugin(model):
        model.functions.append(onnx.parser.parse_function(_DEFINITION))
    return model


def with_plugin_definition(path: str | Path) -> str | bytes:
    """Return an ONNX file as ONNX Runtime accepts it: with the definition if it contains the plugin node.

    Raises:
        ImportError: if the file contains the plugin node and ``onnx`` is not installed.
    """
    if OPERATOR.encode() not in Path(path).read_bytes():
        return str(path)
    import onnx

    return define_plugin(onnx.load(str(path))).SerializeToString()
