"""ONNX definition of TensorRT's deformable-attention plugin, to run and verify files that use it without TensorRT."""

from pathlib import Path
from typing import Any

from deim.layers.ops.plugin import DOMAIN, OPERATOR

# In ONNX's textual syntax. For each of N images, Q queries, M heads, L levels and P points per level: bilinear
# interpolation of the four surrounding pixels, where pixels outside of the map have weight zero.
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
    inferred_size = Constant <value_ints: ints = [-1]> ()
    corners = Constant <value = float[4, 2] {{0, 0, 0, 1, 1, 0, 1, 1}}> ()

    float_shapes = Cast <to = 1> (spatial_shapes)
    height, width = Split <axis = 1, num_outputs = 2> (float_shapes)
    width_height = Concat <axis = 1> (width, height)
    sides = Unsqueeze (width_height, second_third)
    locations = Unsqueeze (sampling_locations, sixth)
    scaled = Mul (locations, sides)
    position = Sub (scaled, half)
    floor = Floor (position)
    pixel = Add (floor, corners)

    last_pixel = Sub (sides, one)
    upper_clamped = Min (pixel, last_pixel)
    clamped = Max (upper_clamped, zero)
    is_same = Equal (clamped, pixel)
    is_same_float = Cast <to = 1> (is_same)
    is_inside = ReduceMin <keepdims = 0> (is_same_float, seventh)
    offset = Sub (position, pixel)
    distance = Abs (offset)
    side_weight = Sub (one, distance)
    pixel_weight = ReduceProd <keepdims = 0> (side_weight, seventh)

    column, row = Split <axis = 6, num_outputs = 2> (clamped)
    float_start = Cast <to = 1> (level_start_index)
    start = Unsqueeze (float_start, second_to_fourth)
    row_length = Unsqueeze (width, third_fourth)
    rows_before = Mul (row, row_length)
    token_in_first_row = Add (start, column)
    float_token = Add (token_in_first_row, rows_before)
    token = Cast <to = 7> (float_token)
    token_by_head = Transpose <perm = [0, 2, 1, 3, 4, 5, 6]> (token)
    index_shape = Constant <value_ints: ints = [0, 0, -1, 1]> ()
    index = Reshape (token_by_head, index_shape)

    weights = Unsqueeze (attention_weights, sixth)
    point_weights = Mul (weights, pixel_weight)
    pixel_weights = Mul (point_weights, is_inside)
    pixel_weights_by_head = Transpose <perm = [0, 2, 1, 3, 4, 5]> (pixel_weights)
    factor_shape = Constant <value_ints: ints = [0, 0, 0, 1, -1]> ()
    factors = Reshape (pixel_weights_by_head, factor_shape)

    value_by_head = Transpose <perm = [0, 2, 1, 3]> (value)
    gathered = GatherND <batch_dims = 2> (value_by_head, index)
    leading_shape = Shape <end = 3> (factors)
    depth = Shape <start = 3> (value)
    query_shape = Concat <axis = 0> (leading_shape, inferred_size, depth)
    samples = Reshape (gathered, query_shape)
    product = MatMul (factors, samples)
    attended_by_head = Squeeze (product, fourth)
    attended = Transpose <perm = [0, 2, 1, 3]> (attended_by_head)
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
    """Return what ONNX Runtime loads: the path, or the content with the definition if the file has the plugin node.

    Raises:
        ImportError: if the file contains the plugin node and ``onnx`` is not installed.
    """
    if OPERATOR.encode() not in Path(path).read_bytes():
        return str(path)
    import onnx

    return define_plugin(onnx.load(str(path))).SerializeToString()
