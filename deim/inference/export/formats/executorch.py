"""ExecuTorch programs, for phones and embedded devices."""

import numpy as np
import torch

from deim.inference.export.conversion import conversion
from deim.inference.export.formats.exporter import Exporter, Support
from deim.inference.export.formats.torch_export import export_program
from deim.inference.export.metadata import METADATA_KEY, Metadata
from deim.inference.export.model import ExportableModel
from deim.inference.export.session import import_runtime, open_or_raise, require_cpu

_METHOD = "forward"


class ExecuTorchExporter(Exporter):
    """ExecuTorch programs, whose convolutions and linear layers XNNPACK computes."""

    suffix, runtime, packages = ".pte", "ExecuTorch", {"executorch": "executorch"}
    support = Support(attention=("gather", "grid_sample"))

    def write(self, model: ExportableModel, path: str) -> str:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

        with conversion(path, "ExecuTorch"):
            edge_program = to_edge_transform_and_lower(
                export_program(model),
                partitioner=[XnnpackPartitioner()],
                compile_config=EdgeCompileConfig(_check_ir_validity=False),
                constant_methods={METADATA_KEY: model.metadata.to_json()},
            )
            program = edge_program.to_executorch()
        with open(path, "wb") as file:
            program.write_to_file(file)
        return path

    def open(self, path: str, device: str) -> "ExecuTorchSession":
        return ExecuTorchSession(path, device)


class ExecuTorchSession:
    """Loaded ``.pte`` file."""

    def __init__(self, path: str, device: str = "auto"):
        require_cpu(path, device, "ExecuTorch with XNNPACK")
        runtime = import_runtime("executorch.runtime", path, "executorch").Runtime.get()
        self.program = open_or_raise(path, lambda: runtime.load_program(path))
        text = None
        if METADATA_KEY in self.program.method_names:
            (text,) = self.program.load_method(METADATA_KEY).execute([])
        self.metadata = Metadata.from_json(text, path)
        self.method = open_or_raise(path, lambda: self.program.load_method(_METHOD))
        self.batch_size = self.method.metadata.input_tensor_meta(0).sizes()[0]
        self.description = "ExecuTorch on cpu"

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        outputs = self.method.execute([torch.from_numpy(np.ascontiguousarray(value)) for value in inputs])
        # The next call overwrites the memory of the outputs.
        return [output.numpy().copy() for output in outputs]
