"""Inputs and outputs of ``.onnx`` files, for the configuration of servers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deim.inference.export.metadata import METADATA_KEY, Metadata


@dataclass(frozen=True)
class TensorDescription:
    """Input or output of a file.

    Attributes:
        dtype: name in ONNX, such as "FLOAT" or "INT64".
        shape: dimensions; None for dynamic ones.
    """

    name: str
    dtype: str
    shape: Sequence[int | None]


@dataclass(frozen=True)
class FileDescription:
    """Inputs, outputs and metadata of a file."""

    inputs: Sequence[TensorDescription]
    outputs: Sequence[TensorDescription]
    metadata: Metadata

    @property
    def batch(self) -> int | None:
        """Fixed batch size; None if it is dynamic."""
        return self.inputs[0].shape[0]


def describe_file(path: str | Path) -> FileDescription:
    """Describe an ``.onnx`` file that this package has exported."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return FileDescription(
        [_describe_tensor(value) for value in model.graph.input],
        [_describe_tensor(value) for value in model.graph.output],
        Metadata.from_json(metadata.get(METADATA_KEY), str(path)),
    )


def _describe_tensor(value: Any) -> TensorDescription:
    import onnx

    tensor = value.type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    return TensorDescription(value.name, onnx.TensorProto.DataType.Name(tensor.elem_type), shape)
