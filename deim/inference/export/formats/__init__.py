"""Formats of exported files, one module per format."""

import os

from deim.errors import ConfigError
from deim.inference.export.formats.aot_inductor import AOTInductorExporter
from deim.inference.export.formats.coreml import CoreMLExporter
from deim.inference.export.formats.executorch import ExecuTorchExporter
from deim.inference.export.formats.exporter import Exporter, Support
from deim.inference.export.formats.litert import LiteRTExporter
from deim.inference.export.formats.onnx import OnnxExporter
from deim.inference.export.formats.openvino import OpenVINOExporter
from deim.inference.export.formats.tensorrt import TensorRTExporter
from deim.inference.export.formats.torch_export import TorchExportExporter
from deim.inference.export.options import ExportOptions

EXPORTERS: tuple[Exporter, ...] = (
    OnnxExporter(),
    OpenVINOExporter(),
    TensorRTExporter(),
    TorchExportExporter(),
    AOTInductorExporter(),
    ExecuTorchExporter(),
    LiteRTExporter(),
    CoreMLExporter(),
)


def find_exporter(path: str | os.PathLike) -> Exporter | None:
    """Return the format that a path has the suffix of; None if there is none."""
    name = os.fspath(path).lower().rstrip("/")
    matches = [exporter for exporter in EXPORTERS if name.endswith(exporter.suffix)]
    # The suffix .aoti.pt2 ends with the suffix .pt2.
    return max(matches, key=lambda exporter: len(exporter.suffix), default=None)


def exporter_of(path: str | os.PathLike) -> Exporter:
    """Return the format that a path has the suffix of.

    Raises:
        ConfigError: if the suffix is unknown.
    """
    exporter = find_exporter(path)
    if exporter is None:
        suffixes = ", ".join(exporter.suffix for exporter in EXPORTERS)
        raise ConfigError(f"--output={path}: unknown suffix; choose one of {suffixes}")
    return exporter


def check_support(exporter: Exporter, options: ExportOptions) -> None:
    """Check that a format supports the options.

    Raises:
        ConfigError: if it does not; the message names the formats that do.
    """
    rejection = exporter.rejection(options)
    if rejection is None:
        return
    value, reason = rejection
    supporting = [other for other in EXPORTERS if (other.rejection(options) or ("",))[0] != value]
    _reject(exporter, value, reason, supporting)


def check_model(exporter: Exporter, fields: tuple[str, ...], is_detrex: bool) -> None:
    """Check that a format supports a model.

    Args:
        fields: what the model predicts besides boxes.
        is_detrex: whether the model is one of detrex.

    Raises:
        ConfigError: if it does not; the message names the formats that do.
    """
    for task in fields:
        if task not in exporter.support.tasks:
            supporting = [other for other in EXPORTERS if task in other.support.tasks]
            _reject(exporter, task, f"do not support {task}", supporting)
    if is_detrex and not exporter.support.detrex:
        supporting = [other for other in EXPORTERS if other.support.detrex]
        _reject(exporter, "detrex", "do not support detrex's own models", supporting)


def _reject(exporter: Exporter, value: str, reason: str, supporting: list[Exporter]) -> None:
    suffixes = " or ".join(other.suffix for other in supporting)
    instead = exporter.support.hints.get(value) or (f"export {suffixes}" if suffixes else "")
    raise ConfigError(f"{exporter.suffix} files ({exporter.runtime}) {reason}{'; ' if instead else ''}{instead}")


def format_table() -> list[dict[str, str]]:
    """Return one row per format: what it requires and supports."""
    rows = []
    for exporter in EXPORTERS:
        support, extras = exporter.support, list(dict.fromkeys(exporter.packages.values()))
        rows.append(
            {
                "suffix": exporter.suffix,
                "runtime": exporter.runtime,
                "install": f"deim[{','.join(extras)}]" if extras else "",
                "batch": "any" if support.dynamic_batch else "fixed",
                "image size": "any" if support.dynamic_size else "fixed",
                "precision": ", ".join(support.precisions),
                "attention": ", ".join(support.attention),
                "interfaces": ", ".join(support.interfaces),
                "tasks": ", ".join(support.tasks),
                "detrex": "yes" if support.detrex else "no",
            }
        )
    return rows


__all__ = [
    "EXPORTERS",
    "Exporter",
    "Support",
    "check_model",
    "check_support",
    "exporter_of",
    "find_exporter",
    "format_table",
]
