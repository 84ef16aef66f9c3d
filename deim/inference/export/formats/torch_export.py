"""Programs of ``torch.export``, which torch runs without this package."""

from typing import Any

import numpy as np
import torch

from deim.devices import choose_device
from deim.inference.export.formats.exporter import Exporter, Support
from deim.inference.export.metadata import METADATA_KEY, Metadata
from deim.inference.export.model import ExportableModel
from deim.inference.export.session import open_or_raise
from deim.layers.ops import use_export_form


class TorchExportExporter(Exporter):
    """Programs of ``torch.export``: a graph of torch's operators, with weights."""

    suffix, runtime = ".pt2", "torch.export"
    support = Support(dynamic_batch=True)

    def write(self, model: ExportableModel, path: str) -> str:
        program = export_program(model)
        torch.export.save(program, path, extra_files={METADATA_KEY: model.metadata.to_json()})
        return path

    def open(self, path: str, device: str) -> "TorchExportSession":
        return TorchExportSession(path, device)


def export_program(model: ExportableModel) -> torch.export.ExportedProgram:
    """Return the graph of a model as a program of ``torch.export``."""
    with use_export_form(model.attention):
        return torch.export.export(model.graph, model.example, dynamic_shapes=model.dynamic_shapes(), strict=False)


class TorchExportSession:
    """Loaded ``.pt2`` file.

    Args:
        device: a torch device; "auto" selects a GPU if available.
    """

    def __init__(self, path: str, device: str = "auto"):
        files: dict[str, Any] = {METADATA_KEY: ""}
        program = open_or_raise(path, lambda: torch.export.load(path, extra_files=files))
        self.metadata = Metadata.from_json(files[METADATA_KEY] or None, path)
        self.device = choose_device(device)
        if self.device.type != "cpu":
            from torch.export.passes import move_to_device_pass  # deferred: not needed on the CPU

            program = move_to_device_pass(program, str(self.device))
        self.program = program.module()
        self.batch_size = fixed_batch_size(program)
        self.description = f"torch.export on {self.device}"

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            outputs = self.program(*(torch.from_numpy(value).to(self.device) for value in inputs))
        return [output.cpu().numpy() for output in outputs]


def fixed_batch_size(program: torch.export.ExportedProgram) -> int | None:
    """Return the batch size of a program; None if it is dynamic."""
    name = program.graph_signature.user_inputs[0]
    images = next(node for node in program.graph.nodes if node.name == name)
    batch = images.meta["val"].shape[0]
    return batch if isinstance(batch, int) else None
