"""Models of Triton Inference Server: a folder of a model repository."""

import json
from collections.abc import Sequence
from pathlib import Path

from deim.inference.export.metadata import METADATA_KEY
from deim.inference.export.servers.file import FileDescription, TensorDescription
from deim.inference.export.servers.server import Server, write_labels

# Largest batch that the server may form of single requests, if the batch size of the file is dynamic.
MAX_BATCH = 16
# Names of dtypes, where Triton's differ from those of ONNX.
_DTYPES = {"FLOAT": "FP32", "FLOAT16": "FP16", "DOUBLE": "FP64"}


class Triton(Server):
    """Triton Inference Server with ONNX Runtime: ``config.pbtxt``, ``labels.txt`` and ``1/model.onnx``.

    The name of the folder is that of the model, and its parent is the model repository.
    """

    interfaces = ("deim", "official", "raw")
    onnx_file = "1/model.onnx"
    attention = None

    def write(self, folder: Path, file: FileDescription) -> list[str]:
        write_labels(folder, file.metadata.class_names)
        folder = folder.resolve()
        (folder / "config.pbtxt").write_text(model_config(folder.name, file), encoding="utf-8")
        return [
            f"wrote {folder / 'config.pbtxt'}; tritonserver --model-repository={folder.parent} serves the model "
            f"{folder.name!r}"
        ]


def model_config(name: str, file: FileDescription) -> str:
    """Return the configuration of a model as protobuf text.

    Args:
        name: name of the model.
    """
    is_dynamic = file.batch is None
    lines = [f"name: {_quote(name)}", 'backend: "onnxruntime"', f"max_batch_size: {MAX_BATCH if is_dynamic else 0}"]
    lines += [_tensors("input", file.inputs, is_dynamic), _tensors("output", file.outputs, is_dynamic)]
    if is_dynamic:
        lines.append("dynamic_batching { }")
    value = _quote(file.metadata.to_json())
    lines.append(f"parameters {{\n  key: {_quote(METADATA_KEY)}\n  value {{ string_value: {value} }}\n}}")
    return "\n".join(lines) + "\n"


def _tensors(kind: str, tensors: Sequence[TensorDescription], is_dynamic: bool) -> str:
    """Return the entries of inputs or outputs. With dynamic batch size, Triton adds the first dimension itself."""
    entries = []
    for tensor in tensors:
        shape = tensor.shape[1:] if is_dynamic else tensor.shape
        dims = ", ".join(str(-1 if side is None else side) for side in shape)
        dtype = _DTYPES.get(tensor.dtype, tensor.dtype)
        entries.append(f"{kind} {{\n  name: {_quote(tensor.name)}\n  data_type: TYPE_{dtype}\n  dims: [ {dims} ]\n}}")
    return "\n".join(entries)


def _quote(text: str) -> str:
    """Return a string literal of protobuf text, whose escapes of quotes, backslashes and line breaks are those of JSON."""
    return json.dumps(text, ensure_ascii=False)
