"""Writing of identified checkpoints in another layout."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import deim
from deim.checkpoint.formats import FORMATS
from deim.checkpoint.formats.format import with_batch_counters
from deim.checkpoint.loading import is_deployed
from deim.checkpoint.metadata import CheckpointMetadata
from deim.checkpoint.reading import read_weights
from deim.checkpoint.renaming import matches
from deim.config.portable import to_portable
from deim.conversion import hugging_face
from deim.conversion.backbones import Backbone, identify_backbone
from deim.conversion.identification import IdentifiedCheckpoint, identify
from deim.errors import CheckpointError

NATIVE = "native"
# Target formats; "native" is the format of this package.
TARGETS = (NATIVE, *dict.fromkeys(one.name for one in FORMATS))


def convert(
    source: str,
    out: str,
    to: str = NATIVE,
    source_format: str = "auto",
    recipe: str | None = None,
    use_ema: bool = True,
    image_size: Sequence[int] | None = None,
) -> IdentifiedCheckpoint:
    """Write the weights in ``source`` to ``out`` in the layout ``to``.

    Args:
        source: a file of any supported format, or a ``transformers`` folder.
        out: output file, or output folder for "hf".
        to: one of :data:`TARGETS`.
        source_format, recipe: see :func:`identify`.
        use_ema: read the EMA weights if the source has them.
        image_size: (height, width) for which the official real-time detectors store anchors; None for the recipe's.

    Returns:
        the identified source.

    Raises:
        CheckpointError: if the source cannot be identified, or the target format cannot store it.
    """
    found = identify(read_weights(source, use_ema), source_format, recipe)
    write = {NATIVE: _write_native, "hf": write_hugging_face}.get(to, _writer(to, image_size))
    write(found, Path(out))
    return found


def convert_backbone(source: str, out: str) -> Backbone | None:
    """Write the backbone in ``source`` to ``out``, for ``model.backbone.weights``.

    Returns:
        the identified backbone; None if the source contains more than a backbone.

    Raises:
        CheckpointError: if the source cannot be read, or is an unsupported ResNet.
    """
    found = identify_backbone(read_weights(source))
    if found is not None:
        _save({"model": _own(found.weights)}, Path(out))
    return found


def to_layout(found: IdentifiedCheckpoint, to: str, image_size: Sequence[int] = (640, 640)) -> dict[str, Tensor]:
    """Return the weights under the names of the format ``to``.

    Raises:
        CheckpointError: if the format cannot store them.
    """
    system = found.recipe.partition("/")[0]
    suitable = [one for one in FORMATS if one.name == to and system in one.systems and one.suits(found.model)]
    refusal = f"the format {to!r} does not support recipes of {system}"
    weights = with_batch_counters(found.weights, found.model)
    for one in suitable:
        try:
            return one.from_native(weights, found.model, image_size)
        except CheckpointError as error:
            refusal = str(error)
    raise CheckpointError(f"{found.stored.path} cannot be written as {to!r}: {refusal}")


def _write_native(found: IdentifiedCheckpoint, out: Path) -> None:
    provenance = CheckpointMetadata(
        deim.__version__, found.recipe, found.classes, found.form, config=to_portable(found.config)
    )
    _save({"model": _own(found.weights), "deim": provenance.state_dict()}, out)


def _writer(to: str, image_size: Sequence[int] | None) -> Callable[[IdentifiedCheckpoint, Path], None]:
    def write(found: IdentifiedCheckpoint, out: Path) -> None:
        size = image_size or found.config.dataloader.get("image_size", (640, 640))
        _save({"model": _own(to_layout(found, to, size))}, out)

    return write


def write_hugging_face(found: IdentifiedCheckpoint, out: Path) -> None:
    """Write a folder that ``from_pretrained`` of ``transformers`` loads.

    Raises:
        CheckpointError: if ``transformers`` has no such model.
    """
    if is_deployed(found.weights):
        raise CheckpointError("transformers has no re-parameterized convolutions: convert the training form instead")
    config, processor = hugging_face.config_of(found.config, found.classes)
    weights = to_layout(found, "hf")
    if config["model_type"] == "rt_detr_v2":
        weights = {n: v for n, v in weights.items() if not _beyond(n, config["decoder_layers"])}
    try:
        out.mkdir(parents=True, exist_ok=True)
        _save_safetensors(weights, out / "model.safetensors")
        for name, content in (("config.json", config), ("preprocessor_config.json", processor)):
            (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{out} cannot be written: {error}") from error


def _beyond(name: str, layers: int) -> bool:
    """Return True if a tensor belongs to a decoder layer after the first ``layers``, or to the heads of one."""
    templates = (f"model.decoder.{part}.#.*" for part in ("layers", "class_embed", "bbox_embed"))
    found = [captured for template in templates if (captured := matches(template, name)) is not None]
    return any(int(captured[0]) >= layers for captured in found)


def _own(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that are views of larger storage; shared tensors stay shared."""
    copies: dict[tuple[int, torch.Size, tuple[int, ...]], Tensor] = {}
    result = {}
    for name, value in weights.items():
        key = (value.data_ptr(), value.shape, value.stride())
        result[name] = copies.setdefault(key, value.clone() if value.numel() else value)
    return result


def _save(content: dict[str, Any], out: Path) -> None:
    """Write to a temporary name and rename, so that an interrupted conversion leaves no partial file."""
    partial = out.with_name(out.name + ".part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, partial)
        partial.replace(out)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError for files that it cannot open
        raise CheckpointError(f"{out} cannot be written: {error}") from error


def _save_safetensors(weights: dict[str, Tensor], out: Path) -> None:
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise CheckpointError("this requires the package safetensors: pip install 'deim[safetensors]'") from error
    save_file({n: v.contiguous().clone() for n, v in weights.items()}, str(out), metadata={"format": "pt"})
