"""Constant folding of programs of ``torch.export``."""

from typing import Any

import torch
from torch import Tensor, fx

# Value of the nodes that depend on the inputs.
_VARIABLE = object()
# Operators that depend on the shape of their input only.
_ZEROS = (torch.ops.aten.new_zeros.default, torch.ops.aten.zeros_like.default)


class _ConstantEvaluator(fx.Interpreter):
    """Evaluates the nodes of a graph that do not depend on its inputs."""

    def __init__(self, module: fx.GraphModule):
        super().__init__(module)
        self.constants: dict[fx.Node, Any] = {}

    def run_node(self, node: fx.Node) -> Any:
        if node.target in _ZEROS and all(isinstance(side, int) for side in node.meta["val"].shape):
            self.constants[node] = torch.zeros(node.meta["val"].shape, dtype=node.meta["val"].dtype)
            return self.constants[node]
        is_constant = node.op in ("get_attr", "call_function") and all(
            source in self.constants for source in node.all_input_nodes
        )
        if not is_constant:
            return _VARIABLE
        self.constants[node] = super().run_node(node)
        return self.constants[node]


def fold_constants(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """Return a program as a module in which all values that do not depend on the inputs are stored as buffers.

    Converters of other formats lack operators that compute such values, as of float64 numbers.
    """
    # Without in-place operators, which would change constants.
    module = program.run_decompositions({}).module()
    evaluator = _ConstantEvaluator(module)
    with torch.no_grad():
        evaluator.run(
            *[None] * sum(node.op == "placeholder" for node in module.graph.nodes), enable_io_processing=False
        )
    for index, (node, value) in enumerate(evaluator.constants.items()):
        is_used = any(user not in evaluator.constants for user in node.users)
        if node.op == "call_function" and is_used and isinstance(value, Tensor):
            _replace(module, node, f"constant_{index}", value)
    for node in reversed(evaluator.constants):
        if not node.users:
            module.graph.erase_node(node)
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def _replace(module: fx.GraphModule, node: fx.Node, name: str, value: Tensor) -> None:
    """Replace a node of a module by a buffer."""
    module.register_buffer(name, value.detach().clone(memory_format=torch.contiguous_format))
    with module.graph.inserting_before(node):
        constant = module.graph.get_attr(name)
    constant.meta = {"val": node.meta.get("val")}
    node.replace_all_uses_with(constant)
