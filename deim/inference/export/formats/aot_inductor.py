"""Packages of AOTInductor: programs of ``torch.export``, compiled to a shared library for the processor of a machine."""

from collections.abc import Sequence

import numpy as np
import torch

from deim.errors import ConfigError
from deim.inference.export.conversion import conversion
from deim.inference.export.formats.exporter import Exporter, Support
from deim.inference.export.formats.torch_export import export_program
from deim.inference.export.metadata import METADATA_KEY, Metadata
from deim.inference.export.model import ExportableModel
from deim.inference.export.session import open_or_raise, require_cpu

# Key of the batch size in the metadata of a package; empty if it is dynamic.
_BATCH_KEY = "batch_size"


class AOTInductorExporter(Exporter):
    """Compiled packages for CPUs. Writing them requires a C++ compiler; running them does not."""

    suffix, runtime = ".aoti.pt2", "AOTInductor"
    support = Support(dynamic_batch=True)

    def require(self) -> None:
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except Exception as error:  # torch raises errors of its own
            raise ConfigError(
                f"export to {self.suffix} requires a C++ compiler: install g++ or clang, or set the environment variable CXX"
            ) from error

    def write(self, model: ExportableModel, path: str) -> str:
        metadata = {METADATA_KEY: model.metadata.to_json(), _BATCH_KEY: str(model.fixed_batch or "")}
        with conversion(path, "AOTInductor"), torch.no_grad():
            torch._inductor.aoti_compile_and_package(
                export_program(model), package_path=path, inductor_configs={"aot_inductor.metadata": metadata}
            )
        return path

    def open(self, path: str, device: str) -> "AOTInductorSession":
        return AOTInductorSession(path, device)


class AOTInductorSession:
    """Loaded ``.aoti.pt2`` file."""

    def __init__(self, path: str, device: str = "auto"):
        require_cpu(path, device, "it is compiled for it")
        self.package = open_or_raise(path, lambda: torch._inductor.aoti_load_package(path))
        content = self.package.get_metadata()
        self.metadata = Metadata.from_json(content.get(METADATA_KEY), path)
        self.batch_size = int(content[_BATCH_KEY]) if content.get(_BATCH_KEY) else None
        self.description = "AOTInductor on cpu"

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            outputs: Sequence[torch.Tensor] = self.package(*(torch.from_numpy(value) for value in inputs))
        return [output.numpy() for output in outputs]
