"""Deformable attention as the node of TensorRT's plug-in: checked by its definition in ONNX's own operators."""

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from deim.errors import ConfigError
from deim.inference.deployment import to_deployment
from deim.inference.export import exporting
from deim.inference.export.onnx import ExportOptions
from deim.inference.export.plugin import define_plugin
from deim.inference.source import load_trained
from deim.layers import MultiScaleDeformableAttention
from deim.layers.ops.plugin import DOMAIN, OPERATOR, deform_attn_plugin
from deim.layers.ops.torch_backend import deform_attn_torch
from tests.inference.conftest import write_checkpoint

SHAPES, POINTS = ((5, 7), (3, 4), (1, 1)), (3, 6, 2)


class Attention(nn.Module):
    def forward(self, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return deform_attn_plugin(value, SHAPES, locations, weights, POINTS)


def nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == OPERATOR]


def test_the_node_and_its_definition_are_the_operator(tmp_path: Path) -> None:
    """Points inside, on the borders and outside of maps of which one is a single pixel, and as many of each level as there are."""
    torch.manual_seed(0)
    inputs = torch.randn(2, 48, 4, 8), torch.rand(2, 9, 4, 11, 2) * 2 - 0.5, torch.rand(2, 9, 4, 11)
    inputs[1][:, 0] = inputs[1][:, 0].round()
    torch.onnx.export(Attention().eval(), inputs, dynamo=True, verbose=False).save(str(tmp_path / "one.onnx"))
    model = define_plugin(onnx.load(tmp_path / "one.onnx"))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    (found,) = session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
    wanted = deform_attn_torch(inputs[0], SHAPES, *inputs[1:], POINTS)
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-5, atol=1e-5)


def test_its_inputs_are_those_that_the_plug_in_asks_for(tmp_path: Path) -> None:
    """Their order, types and sizes, from its documentation: value, shapes, starts, locations, weights."""
    value, locations, weights = torch.zeros(2, 48, 4, 8), torch.zeros(2, 9, 4, 11, 2), torch.zeros(2, 9, 4, 11)
    path = str(tmp_path / "one.onnx")
    torch.onnx.export(Attention().eval(), (value, locations, weights), dynamo=True, verbose=False).save(path)
    graph = onnx.load(path).graph
    (node,) = nodes(onnx.load(path))
    constants = {one.name: one for one in graph.initializer}
    types = {one.name: one.type.tensor_type for one in (*graph.value_info, *graph.input)}
    given, *integers, where, shares = node.input
    assert [constants[name].data_type for name in integers] == [onnx.TensorProto.INT32] * 2
    assert [onnx.numpy_helper.to_array(constants[name]).tolist() for name in integers] == [
        [list(shape) for shape in SHAPES],
        [0, 35, 47],
    ]
    sizes = [[side.dim_value for side in types[name].shape.dim] for name in (given, where, shares)]
    assert sizes == [[2, 48, 4, 8], [2, 9, 4, 3, 6, 2], [2, 9, 4, 3, 6]]
    # TensorRT would take a definition for the operator
    assert node.domain == DOMAIN
    assert not onnx.load(path).functions


@pytest.mark.parametrize(
    ("family", "options"),
    [
        pytest.param(
            "dfine", ExportOptions(size=(64, 96), attention="plugin", dynamic_size=True), marks=pytest.mark.long
        ),
        # Nothing is selected there, which would be decided by the rounding of random weights.
        (
            "deformable",
            ExportOptions(size=(64, 96), attention="plugin", dynamic_batch=False, batch=2, precision="float16"),
        ),
    ],
)
def test_models_have_a_node_for_each_attention_and_find_the_same(
    family: str, options: ExportOptions, tmp_path: Path
) -> None:
    path, lines = write_checkpoint(tmp_path / "model.pth", family), []
    exporting.export(str(path), None, str(tmp_path / "model.onnx"), options, tell=lines.append)
    assert "ONNX Runtime" in lines[0]
    deployed = to_deployment(load_trained(str(path)).model)
    count = sum(isinstance(module, MultiScaleDeformableAttention) for module in deployed.modules())
    model = onnx.load(tmp_path / "model.onnx")
    assert len(nodes(model)) == count
    assert not {"GridSample", "GatherND"} & {node.op_type for node in model.graph.node}
    assert not model.functions


@pytest.mark.parametrize(
    ("name", "precision", "told"),
    [("m.xml", "float32", "supported by TensorRT only"), ("m.onnx", "int8", "choose one")],
)
def test_what_it_is_not_for_is_told(name: str, precision: str, told: str, checkpoint: Path, tmp_path: Path) -> None:
    options = ExportOptions(attention="plugin", precision=precision)
    with pytest.raises(ConfigError, match=told):
        exporting.export(str(checkpoint), None, str(tmp_path / name), options)
