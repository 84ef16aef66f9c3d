"""Deformable attention as the node of TensorRT's plugin, verified with its definition in ONNX operators."""

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from deim.errors import ConfigError
from deim.inference.deployment import to_deployment
from deim.inference.export.export import export
from deim.inference.export.options import ExportOptions
from deim.inference.export.plugin import define_plugin
from deim.inference.trained_model import load_trained
from deim.layers import MultiScaleDeformableAttention
from deim.layers.ops.plugin import DOMAIN, OPERATOR, deform_attn_plugin
from deim.layers.ops.torch_backend import deform_attn_torch
from tests.inference.conftest import write_checkpoint

SHAPES, POINTS = ((5, 7), (3, 4), (1, 1)), (3, 6, 2)


class Attention(nn.Module):
    def forward(self, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return deform_attn_plugin(value, SHAPES, locations, weights, POINTS)


def plugin_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == OPERATOR]


def test_plugin_definition_matches_torch_operator(tmp_path: Path) -> None:
    """Compare on points inside, on the border and outside of feature maps, one of which is a single pixel."""
    torch.manual_seed(0)
    inputs = torch.randn(2, 48, 4, 8), torch.rand(2, 9, 4, 11, 2) * 2 - 0.5, torch.rand(2, 9, 4, 11)
    inputs[1][:, 0] = inputs[1][:, 0].round()
    torch.onnx.export(Attention().eval(), inputs, dynamo=True, verbose=False).save(str(tmp_path / "one.onnx"))
    model = define_plugin(onnx.load(tmp_path / "one.onnx"))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [session_input.name for session_input in session.get_inputs()]
    (outputs,) = session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
    expected = deform_attn_torch(inputs[0], SHAPES, *inputs[1:], POINTS)
    torch.testing.assert_close(torch.from_numpy(outputs), expected, rtol=1e-5, atol=1e-5)


def test_plugin_inputs_match_documentation(tmp_path: Path) -> None:
    """Check order, dtypes and shapes from the plugin's documentation: value, shapes, starts, locations, weights."""
    value, locations, weights = torch.zeros(2, 48, 4, 8), torch.zeros(2, 9, 4, 11, 2), torch.zeros(2, 9, 4, 11)
    path = str(tmp_path / "one.onnx")
    torch.onnx.export(Attention().eval(), (value, locations, weights), dynamo=True, verbose=False).save(path)
    graph = onnx.load(path).graph
    (node,) = plugin_nodes(onnx.load(path))
    constants = {value.name: value for value in graph.initializer}
    types = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.input)}
    value_name, *integers, locations_name, weights_name = node.input
    assert [constants[name].data_type for name in integers] == [onnx.TensorProto.INT32] * 2
    assert [onnx.numpy_helper.to_array(constants[name]).tolist() for name in integers] == [
        [list(shape) for shape in SHAPES],
        [0, 35, 47],
    ]
    sizes = [[side.dim_value for side in types[name].shape.dim] for name in (value_name, locations_name, weights_name)]
    assert sizes == [[2, 48, 4, 8], [2, 9, 4, 3, 6, 2], [2, 9, 4, 3, 6]]
    # TensorRT would prefer a definition in the file to its own plugin.
    assert node.domain == DOMAIN
    assert not onnx.load(path).functions


@pytest.mark.parametrize(
    ("family", "options"),
    [
        pytest.param(
            "dfine", ExportOptions(size=(64, 96), attention="plugin", dynamic_size=True), marks=pytest.mark.long
        ),
        # This family selects no queries; with random weights, rounding would change the selection.
        (
            "deformable",
            ExportOptions(size=(64, 96), attention="plugin", dynamic_batch=False, batch=2, precision="float16"),
        ),
    ],
)
def test_models_have_one_plugin_node_per_attention(family: str, options: ExportOptions, tmp_path: Path) -> None:
    path, lines = write_checkpoint(tmp_path / "model.pth", family), []
    export(str(path), None, str(tmp_path / "model.onnx"), options, log=lines.append)
    assert "ONNX Runtime" in lines[0]
    deployed = to_deployment(load_trained(str(path)).model)
    count = sum(isinstance(module, MultiScaleDeformableAttention) for module in deployed.modules())
    model = onnx.load(tmp_path / "model.onnx")
    assert len(plugin_nodes(model)) == count
    assert not {"GridSample", "GatherND"} & {node.op_type for node in model.graph.node}
    assert not model.functions


@pytest.mark.parametrize(
    ("name", "precision", "message"),
    [
        ("m.xml", "float32", "do not support attention='plugin'; export .onnx or .engine"),
        ("m.onnx", "int8", "choose one"),
    ],
)
def test_unsupported_plugin_exports_are_errors(
    name: str, precision: str, message: str, checkpoint: Path, tmp_path: Path
) -> None:
    options = ExportOptions(attention="plugin", precision=precision)
    with pytest.raises(ConfigError, match=message):
        export(str(checkpoint), None, str(tmp_path / name), options)
