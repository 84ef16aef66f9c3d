"""Protocol of the exported formats."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from deim.errors import ConfigError
from deim.inference.export.model import ExportableModel
from deim.inference.export.options import OPSETS, ExportOptions
from deim.inference.export.session import Session
from deim.tasks import TASKS


@dataclass(frozen=True)
class Support:
    """What a format supports.

    Attributes:
        precisions: of :data:`deim.inference.export.options.PRECISIONS`.
        attention: of :data:`deim.layers.ops.EXPORT_FORMS`; the first is the default.
        dynamic_batch, dynamic_size: whether batch size and image size can be dynamic.
        opset: whether the file is an ONNX file or made from one, so that it has an opset.
        detrex: whether detrex's own models can be exported.
        interfaces: of :data:`deim.inference.export.options.INTERFACES`.
        tasks: values of :data:`deim.tasks.TASKS`.
        hints: what to do instead, for unsupported values, such as {"int8": "quantize the file with ..."}.
    """

    precisions: Sequence[str] = ("float32",)
    attention: Sequence[str] = ("grid_sample", "gather")
    dynamic_batch: bool = False
    dynamic_size: bool = False
    opset: bool = False
    detrex: bool = False
    interfaces: Sequence[str] = ("deim", "official", "raw")
    tasks: Sequence[str] = tuple(TASKS.values())
    hints: Mapping[str, str] = field(default_factory=dict)


class Exporter(Protocol):
    """A format of exported files: how to write and run them.

    To add a format, write a class that inherits from this one in a file of :mod:`deim.inference.export.formats`, and add
    the class to ``EXPORTERS``.

    Attributes:
        suffix: suffix of the files, which selects the format.
        runtime: name of the software that runs the files.
        packages: {module: extra of this package that installs it}, of the modules that writing and running files requires.
        support: what the format supports.
    """

    suffix: str
    runtime: str
    packages: Mapping[str, str] = MappingProxyType({})
    support: Support

    def write(self, model: ExportableModel, path: str) -> str:
        """Write a file into an existing folder.

        Returns:
            path of the file to verify: ``path``, or that of the file that it will be built from.
        """
        ...

    def finish(self, model: ExportableModel, path: str, log: Callable[[str], None]) -> None:
        """Complete the file after verification; by default, nothing is left to do."""
        return

    def open(self, path: str, device: str) -> Session:
        """Open a file with its runtime.

        Args:
            device: "cpu", "auto" or a device of the runtime.

        Raises:
            CheckpointError: if the file cannot be read.
            ConfigError: if the runtime is not installed or the device is not available.
        """
        ...

    def unavailable_reason(self) -> str | None:
        """Return why this machine cannot run files of the format; None if it can."""
        return None

    def size(self, path: str) -> int:
        """Return the number of bytes of a file or folder and the files that belong to it."""
        files = [file for file in Path(path).rglob("*") if file.is_file()] if Path(path).is_dir() else [Path(path)]
        return sum(file.stat().st_size for file in files)

    def require(self) -> None:
        """Check that the packages are installed that writing and verifying a file requires.

        Raises:
            ConfigError: if a package is missing.
        """
        for module, extra in self.packages.items():
            if importlib.util.find_spec(module) is None:
                raise ConfigError(f"export to {self.suffix} requires the package {module}: pip install 'deim[{extra}]'")

    def rejection(self, options: ExportOptions) -> tuple[str, str] | None:
        """Return the option that the format does not support and what to say about it; None if it supports all."""
        support = self.support
        if options.precision not in support.precisions:
            return options.precision, f"have no {options.precision} form"
        if options.attention is not None and options.attention not in support.attention:
            return options.attention, f"do not support attention={options.attention!r}"
        if options.interface not in support.interfaces:
            return options.interface, f"do not support interface={options.interface!r}"
        if options.dynamic_size and not support.dynamic_size:
            return "dynamic_size", "have a fixed image size: omit --dynamic-size"
        if options.dynamic_batch and not support.dynamic_batch:
            return "dynamic_batch", "have a fixed batch size: give --batch"
        if options.opset != OPSETS.start and not support.opset:
            return "opset", "have no ONNX opset: omit --opset"
        return None
