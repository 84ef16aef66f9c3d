"""Writing of identified checkpoints in another layout."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

import deim
from deim.checkpoint.formats import FORMATS
from deim.checkpoint.formats.format import with_batch_counters
from deim.checkpoint.loading import is_deployed
from deim.checkpoint.metadata import CheckpointMetadata
from deim.checkpoint.reading import read_weights
from deim.checkpoint.renaming import match_template
from deim.config.files import available
from deim.config.portable import to_portable
from deim.conversion import hugging_face
from deim.conversion.backbones import IdentifiedBackbone, identify_backbone
from deim.conversion.deimv2_folder import build_deimv2_config
from deim.conversion.ecdet_folder import build_ecdet_config
from deim.conversion.identification import IdentifiedCheckpoint, identify
from deim.errors import CheckpointError

NATIVE = "native"
# Target formats; "native" is the format of this package.
TARGETS = (NATIVE, *dict.fromkeys(layout.name for layout in FORMATS))
# System -> function that returns config.json of its authors' folders on Hugging Face, and the format of the weights.
_HUB_FOLDERS: dict[str, tuple[Callable[[Any, Sequence[int]], dict[str, Any]], str]] = {
    "deimv2": (build_deimv2_config, "deimv2"),
    "ecdet": (build_ecdet_config, "edgecrafter"),
}


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
        CheckpointError: if the source cannot be identified, the target format cannot store it, or ``out`` cannot be
            written.
        ConfigError: if the recipe does not exist.
    """
    identified = identify(read_weights(source, use_ema), source_format, recipe)
    write = {NATIVE: _write_native, "hf": write_hugging_face}.get(to, _writer(to, image_size))
    write(identified, Path(out))
    return identified


def convert_backbone(source: str, out: str) -> IdentifiedBackbone | None:
    """Write the backbone in ``source`` to ``out``, for ``model.backbone.weights``.

    Returns:
        the identified backbone; None if the source contains a detector or an unknown backbone.

    Raises:
        CheckpointError: if the source cannot be read or is a Caffe2 ResNet, or ``out`` cannot be written.
    """
    identified = identify_backbone(read_weights(source))
    if identified is not None:
        _save({"model": _clone_tensors(identified.weights)}, Path(out))
    return identified


def to_layout(identified: IdentifiedCheckpoint, to: str, image_size: Sequence[int] = (640, 640)) -> dict[str, Tensor]:
    """Return the weights under the names of the format ``to``.

    Raises:
        CheckpointError: if the format cannot store them.
    """
    system = _system(identified)
    layouts = [
        layout
        for layout in FORMATS
        if layout.name == to and system in layout.systems and layout.supports(identified.model)
    ]
    reason = f"the format {to!r} does not support recipes of {system}"
    weights = with_batch_counters(identified.weights, identified.model)
    for layout in layouts:
        try:
            return layout.from_native(weights, identified.model, image_size)
        except CheckpointError as error:
            reason = str(error)
    raise CheckpointError(f"{identified.stored.path} cannot be written as {to!r}: {reason}")


def _system(identified: IdentifiedCheckpoint) -> str:
    """Return the folder of ``projects/`` that the model's recipe belongs to."""
    recipe = identified.config.train.recipe
    if recipe not in available():
        raise CheckpointError(
            f"{identified.stored.path} can only be written in the native format, because {recipe} is not a recipe of "
            "this package: set train.recipe in this config to the recipe that its model derives from"
        )
    return recipe.partition("/")[0]


def _write_native(identified: IdentifiedCheckpoint, out: Path) -> None:
    metadata = CheckpointMetadata(
        deim.__version__,
        identified.recipe,
        identified.classes,
        identified.form,
        config=to_portable(identified.config),
        keypoints=identified.stored.metadata.get("keypoints"),
    )
    _save({"model": _clone_tensors(identified.weights), "deim": metadata.state_dict()}, out)


def _writer(to: str, image_size: Sequence[int] | None) -> Callable[[IdentifiedCheckpoint, Path], None]:
    def write(identified: IdentifiedCheckpoint, out: Path) -> None:
        size = image_size or identified.config.dataloader.get("image_size", (640, 640))
        _save({"model": _clone_tensors(to_layout(identified, to, size))}, out)

    return write


def write_hugging_face(identified: IdentifiedCheckpoint, out: Path) -> None:
    """Write a folder that ``from_pretrained`` loads: of ``transformers``, or of the authors' class for DEIMv2 and ECDet.

    Raises:
        CheckpointError: if there is no such class for the model, or the folder cannot be written.
    """
    system = _system(identified)
    if is_deployed(identified.weights):
        raise CheckpointError("Hugging Face folders have the training form: convert the weights in this form instead")
    if system in _HUB_FOLDERS:
        build_config, layout = _HUB_FOLDERS[system]
        size = identified.config.dataloader.get("image_size", (640, 640))
        files = {"config.json": build_config(identified.config, size)}
        weights = _without_duplicates(to_layout(identified, layout, size))
    else:
        config, processor = hugging_face.build_config(identified.config, identified.classes)
        files = {"config.json": config, "preprocessor_config.json": processor}
        weights = to_layout(identified, "hf")
        if config["model_type"] == "rt_detr_v2":
            weights = {n: v for n, v in weights.items() if not _is_after_layer(n, config["decoder_layers"])}
    try:
        out.mkdir(parents=True, exist_ok=True)
        save_safetensors(weights, out / "model.safetensors")
        for name, content in files.items():
            (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{out} cannot be written: {error}") from error


def _is_after_layer(name: str, layers: int) -> bool:
    """Return True if a tensor belongs to a decoder layer after the first ``layers``, or to the heads of one."""
    templates = (f"model.decoder.{part}.#.*" for part in ("layers", "class_embed", "bbox_embed"))
    captures = [captured for template in templates if (captured := match_template(template, name)) is not None]
    return any(int(captured[0]) >= layers for captured in captures)


def _without_duplicates(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep the first name, in sorted order, of tensors with several names, as ``PyTorchModelHubMixin`` does."""
    unique: dict[tuple[int, torch.Size], str] = {}
    for name in sorted(weights):
        unique.setdefault((weights[name].data_ptr(), weights[name].shape), name)
    return {name: weights[name] for name in unique.values()}


def _clone_tensors(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy all tensors, because a saved view stores its whole storage; shared tensors stay shared."""
    copies: dict[tuple[int, torch.Size, tuple[int, ...]], Tensor] = {}
    result = {}
    for name, value in weights.items():
        key = (value.data_ptr(), value.shape, value.stride())
        result[name] = copies.setdefault(key, value.clone() if value.numel() else value)
    return result


def _save(content: dict[str, Any], out: Path) -> None:
    """Write to a temporary name and rename, so that ``out`` is never incomplete."""
    partial = out.with_name(out.name + ".part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, partial)
        partial.replace(out)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError for files that it cannot open
        raise CheckpointError(f"{out} cannot be written: {error}") from error


def save_safetensors(weights: dict[str, Tensor], out: Path) -> None:
    """Write a safetensors file, in which every tensor has its own storage.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    try:
        out.touch()
        mode = out.stat().st_mode
        save_file({n: v.contiguous().clone() for n, v in weights.items()}, str(out), metadata={"format": "pt"})
        out.chmod(mode)  # safetensors writes files that only their owner can read
    except (OSError, SafetensorError) as error:  # also for a full disk
        raise CheckpointError(f"{out} cannot be written: {error}") from error
