"""Folders with an exported file and its configuration, for the inference servers Triton and DeepStream."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from deim.errors import ConfigError
from deim.inference.export.export import export
from deim.inference.export.formats import find_exporter
from deim.inference.export.options import ExportOptions
from deim.inference.export.servers.deepstream import DeepStream
from deim.inference.export.servers.file import describe_file
from deim.inference.export.servers.server import Server
from deim.inference.export.servers.triton import Triton

SERVERS: dict[str, Server] = {"triton": Triton(), "deepstream": DeepStream()}


def export_for_server(
    server_name: str,
    model: str,
    weights: str | None,
    folder: str,
    options: ExportOptions,
    images: str | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> None:
    """Write a verified ``.onnx`` file into a folder, with the configuration of an inference server.

    Args:
        server_name: one of :data:`SERVERS`.
        model, weights, images, log: see :func:`deim.inference.export.export.export`.
        folder: output folder; existing files of the same names are replaced.
        options: options of the export; the interface must be one that the server reads.

    Raises:
        ConfigError: if the server does not support an option, or for the reasons of
            :func:`deim.inference.export.export.export`.
        CheckpointError, DatasetError, ExportError: for the reasons of :func:`deim.inference.export.export.export`.
    """
    server = SERVERS[server_name]
    if options.interface not in server.interfaces:
        choices = " or ".join(server.interfaces)
        raise ConfigError(f"{server_name} does not read files of the interface {options.interface}: choose {choices}")
    if Path(folder).is_file() or find_exporter(folder) is not None:
        raise ConfigError(f"--output={folder}: files for {server_name} are written into a folder: give one")
    path = Path(folder, server.onnx_file)
    if options.attention is None and server.attention is not None:
        options = dataclasses.replace(options, attention=server.attention)
    export(model, weights, str(path), options, images, log)
    for line in server.write(Path(folder), describe_file(path)):
        log(line)


__all__ = ["SERVERS", "DeepStream", "Server", "Triton", "export_for_server"]
