"""LiteRT files (formerly TensorFlow Lite), for phones and embedded devices."""

import operator
import zipfile
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from deim.inference.export.conversion import conversion
from deim.inference.export.formats.exporter import Exporter, Support
from deim.inference.export.formats.torch_export import export_program
from deim.inference.export.metadata import METADATA_KEY, Metadata
from deim.inference.export.model import ExportableModel
from deim.inference.export.program_folding import fold_constants
from deim.inference.export.session import import_runtime, open_or_raise, require_cpu

# Converter and runtime, and the extra that installs them.
_PACKAGES = dict.fromkeys(("litert_torch", "ai_edge_litert"), "litert")
# File of the metadata in the ZIP archive at the end of a LiteRT file, where TensorFlow Lite's tools put labels.
_METADATA_FILE = f"{METADATA_KEY}.json"


class LiteRTExporter(Exporter):
    """LiteRT files. Labels are int32."""

    suffix, runtime, packages = ".tflite", "LiteRT", _PACKAGES
    support = Support(attention=("gather",))

    def write(self, model: ExportableModel, path: str) -> str:
        import litert_torch

        with conversion(path, "litert_torch"):
            module = fold_constants(export_program(model))
            select_top_values_by_index(module)
            litert_torch.convert(NamedOutputs(module, model.graph.output_names), model.example).export(path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(_METADATA_FILE, model.metadata.to_json())
        return path

    def open(self, path: str, device: str) -> "LiteRTSession":
        return LiteRTSession(path, device)


class NamedOutputs(nn.Module):
    """A module with a tuple of outputs as a module with outputs by name."""

    def __init__(self, module: nn.Module, names: tuple[str, ...]):
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict(zip(self.names, self.module(*inputs), strict=True))


def select_top_values_by_index(module: fx.GraphModule) -> None:
    """Replace the values of top-k operators whose indices are unused by gathering at the indices, in place.

    The converter turns such operators into a sort, which the runtime lacks.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is not torch.ops.aten.topk.default:
            continue
        outputs = {user.args[1]: user for user in node.users if user.users}
        if 1 in outputs:
            continue
        with graph.inserting_after(node):
            indices = graph.call_function(operator.getitem, (node, 1))
        with graph.inserting_after(indices):
            dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", -1)
            values = graph.call_function(torch.ops.aten.gather.default, (node.args[0], dim, indices))
        outputs[0].replace_all_uses_with(values)
        graph.erase_node(outputs[0])
    module.recompile()


class LiteRTSession:
    """LiteRT interpreter of a ``.tflite`` file, with as many threads as torch has."""

    def __init__(self, path: str, device: str = "auto"):
        require_cpu(path, device, "LiteRT")
        runtime = import_runtime("ai_edge_litert.interpreter", path, "litert")
        interpreter = open_or_raise(path, lambda: runtime.Interpreter(path, num_threads=torch.get_num_threads()))
        self.metadata = Metadata.from_json(_read_metadata(path), path)
        self.interpreter, self.run = interpreter, interpreter.get_signature_runner()
        # args_0, args_1
        self.inputs = sorted(self.run.get_input_details().items())
        self.batch_size: int | None = int(self.inputs[0][1]["shape"][0])
        self.description = "LiteRT on cpu"

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        pairs = zip(self.inputs, inputs, strict=True)
        # The converter replaces int64 by int32.
        values = {name: value.astype(details["dtype"], copy=False) for (name, details), value in pairs}
        outputs: dict[str, Any] = self.run(**values)
        return [outputs[name] for name in self.metadata.outputs]


def _read_metadata(path: str) -> str | None:
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        return archive.read(_METADATA_FILE).decode() if _METADATA_FILE in archive.namelist() else None
