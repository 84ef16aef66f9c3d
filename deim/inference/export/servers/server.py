"""Protocol of inference servers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from deim.inference.export.servers.file import FileDescription


class Server(Protocol):
    """An inference server: which files it reads and how they are configured.

    Attributes:
        interfaces: of :data:`deim.inference.export.options.INTERFACES`, those that the server can serve; the first is the
            default.
        onnx_file: path of the ``.onnx`` file in the folder.
        attention: default form of deformable attention; None for that of ``.onnx`` files.
    """

    interfaces: Sequence[str]
    onnx_file: str
    attention: str | None

    def write(self, folder: Path, file: FileDescription) -> list[str]:
        """Write the configuration beside the ``.onnx`` file.

        Returns:
            what was written and how to use it, for the log.
        """
        ...


def write_labels(folder: Path, class_names: Sequence[str]) -> None:
    """Write ``labels.txt``: one class name per line."""
    lines = "".join(f"{' '.join(name.split())}\n" for name in class_names)
    (folder / "labels.txt").write_text(lines, encoding="utf-8")
