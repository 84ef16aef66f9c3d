"""Reading of weight files of any kind without running code in them."""

import argparse
import collections
import json
import pathlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from deim.checkpoint.detectron2_pickle import read_detectron2_pickle
from deim.checkpoint.download import local_path
from deim.checkpoint.metadata import check_metadata
from deim.errors import CheckpointError

# Objects that official training code stores beside the weights: its arguments, and NumPy numbers.
_MULTIARRAY: Any = getattr(np, "_core", None) or np.core
_ALLOWED = [
    argparse.Namespace,
    collections.Counter,
    collections.defaultdict,
    pathlib.PosixPath,
    np.dtype,
    np.ndarray,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
    _MULTIARRAY.multiarray.scalar,
    _MULTIARRAY.multiarray._reconstruct,
]
# Weight files in a folder of this package or of Hugging Face transformers.
_FOLDER_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


@dataclass
class StoredWeights:
    """Weights from a file.

    Attributes:
        path: path or URL, as passed to :func:`read_weights`.
        weights: {name: tensor}, on the CPU.
        metadata: metadata of a checkpoint of this package; see :mod:`deim.checkpoint.metadata`.
        config: ``config.json`` of a folder; otherwise empty.
        arguments: command-line arguments of the training, if the file contains them.
    """

    path: str
    weights: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)


def read_weights(path: str, use_ema: bool = True) -> StoredWeights:
    """Read the weights in a checkpoint, a weights file, or a folder of this package or of ``transformers``.

    Args:
        path: path or URL; ``hf://user/model`` is a repository of the Hugging Face Hub.
        use_ema: return the EMA weights if the checkpoint has them.

    Raises:
        CheckpointError: if the file does not exist, cannot be read, or contains no weights.
    """
    file = _weights_file(path)
    content = read_checkpoint(str(file))
    weights = {name.removeprefix("module."): value for name, value in select_weights(content, use_ema).items()}
    others = [name for name, value in weights.items() if not isinstance(value, Tensor)]
    if others or not weights:
        what = f"{others[0]} has type {type(weights[others[0]]).__name__}" if others else "it is empty"
        raise CheckpointError(f"{path} contains no model weights: {what}")
    config_file = file.with_name("config.json")
    config = _read_json(config_file) if file.name in _FOLDER_FILES and config_file.is_file() else {}
    arguments = content.get("args")
    return StoredWeights(
        path,
        weights,
        check_metadata(content.get("deim") or config.get("deim") or {}, path),
        config,
        dict(vars(arguments)) if isinstance(arguments, argparse.Namespace) else {},
    )


def select_weights(content: Mapping, use_ema: bool) -> Mapping[str, Tensor]:
    """Return the weights in a checkpoint of this package or of official code: EMA weights if requested and present,
    otherwise the trained weights."""
    official = content.get("ema")
    if use_ema and content.get("ema_state"):
        return content["ema_state"]
    if isinstance(official, Mapping) and "module" in official and (use_ema or "model" not in content):
        return official["module"]
    if use_ema and isinstance(content.get("ema_model"), Mapping):
        return content["ema_model"]
    for key in ("model", "state_dict", "model_state"):  # "model_state" is used by pycls and MViT's authors
        if isinstance(content.get(key), Mapping):
            return content[key]
    return content


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint file onto the CPU.

    Raises:
        CheckpointError: if the file does not exist, cannot be read, or contains anything other than data.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    if not Path(path).stat().st_size:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: the file is empty")
    try:
        content = _load(path)
    except CheckpointError:
        raise
    except Exception as error:  # torch raises many exception types for files that are not checkpoints
        raise CheckpointError(_reason(path, error)) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} contains an object of type {type(content).__name__}, not the weights of a model")
    return dict(content)


def _load(path: str) -> Any:
    if path.endswith(".pkl"):
        return read_detectron2_pickle(path)
    if path.endswith(".index.json"):
        return _read_parts(Path(path))
    if path.endswith(".safetensors"):
        return _read_safetensors(path)
    with torch.serialization.safe_globals(_ALLOWED):
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_parts(index: Path) -> dict[str, Tensor]:
    """Read the weights of a model that is split into several files, which are in the folder of their index."""
    listed = _read_json(index).get("weight_map")
    parts = sorted({str(part) for part in listed.values()}) if isinstance(listed, dict) else []
    foreign = [part for part in parts if Path(part).name != part or not part.endswith(".safetensors")]
    if foreign or not parts:
        reason = f"it names {foreign[0]}" if foreign else "it names no files"
        raise CheckpointError(f"{index} is not the index of safetensors files in its folder: {reason}")
    return {name: value for part in parts for name, value in _read_safetensors(str(index.with_name(part))).items()}


def _read_safetensors(path: str) -> dict[str, Tensor]:
    return load_file(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must contain a JSON object, not {type(content).__name__}")
    return content


def _weights_file(path: str) -> Path:
    local = Path(local_path(path))
    if not local.is_dir():
        return local
    for name in _FOLDER_FILES:
        if (local / name).is_file():
            return local / name
    raise CheckpointError(f"the folder {path} has no weights: none of {', '.join(_FOLDER_FILES)} exists")


def _reason(path: str, error: Exception) -> str:
    if path.endswith((".safetensors", ".index.json")):
        return f"{path} cannot be read as safetensors: the file is damaged, incomplete, or has another format ({error})"
    foreign = _foreign_types(path)
    if not foreign:
        # torch's own message advises to disable the safe mode.
        reason = str(error) if isinstance(error, OSError) else "the file is damaged, incomplete, or not a checkpoint"
        return f"{path} cannot be read as a checkpoint: {reason}"
    return (
        f"{path} contains objects other than data ({', '.join(foreign)}), which could run code during loading. If you "
        "trust the source of the file, extract its weights in the environment where it was written:\n"
        f"""  python -c "import torch; c = torch.load('{path}', weights_only=False, map_location='cpu'); """
        """torch.save({k: c[k] for k in ('model', 'ema', 'ema_model', 'state_dict', 'model_state') if k in c} """
        """or c, 'weights.pth')\""""
    )


def _foreign_types(path: str) -> Sequence[str]:
    """Return the types in a file that are neither tensors nor plain data; empty if the file cannot be inspected."""
    with suppress(Exception), torch.serialization.safe_globals(_ALLOWED):
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    return []
