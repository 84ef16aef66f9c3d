"""Folders with a model of this package, for the Hugging Face Hub: ``model.safetensors`` and ``config.json``.

``config.json`` has the metadata of a checkpoint under the key ``deim``; see :mod:`deim.checkpoint.metadata`. It contains the
config of the model, so that a folder can be loaded without its recipe.
"""

import json
from pathlib import Path
from typing import Any

import deim
from deim.checkpoint.former_names import with_current_names
from deim.checkpoint.metadata import CheckpointMetadata
from deim.checkpoint.reading import StoredWeights, read_weights
from deim.config.files import available
from deim.config.portable import to_portable
from deim.conversion.conversion import save_safetensors
from deim.conversion.identification import identify
from deim.errors import CheckpointError

# Checkpoints of a run that are published, the best first.
RUN_WEIGHTS = ("model_best.pth", "model_final.pth")


def find_checkpoint(source: str) -> str:
    """Return the best or else the final checkpoint of the folder of a run; any other source is unchanged.

    Raises:
        CheckpointError: if the run has no such checkpoint.
    """
    folder = Path(source)
    if not (folder / "config.yaml").is_file():
        return source
    for name in RUN_WEIGHTS:
        if (folder / name).is_file():
            return str(folder / name)
    raise CheckpointError(f"{source} has no weights yet: neither {' nor '.join(RUN_WEIGHTS)} exists")


def write_hub_folder(source: str, out: Path) -> dict[str, Any]:
    """Write the weights and the config of a checkpoint to a folder.

    Args:
        source: a checkpoint in any supported format. EMA weights are used if it has them.
        out: the folder; existing files with these names are replaced.

    Returns:
        the metadata of the model.

    Raises:
        CheckpointError: if the checkpoint cannot be identified, its config cannot be stored as data, or the folder is not
            writable.
    """
    stored = read_weights(source)
    weights, metadata = _native(stored)
    if metadata.get("recipe") not in available():  # the path of a config, which contains names of local folders
        metadata = {**metadata, "recipe": Path(str(metadata.get("recipe", ""))).name}
    try:
        out.mkdir(parents=True, exist_ok=True)
        save_safetensors(weights, out / "model.safetensors")
        content = {"library_name": "deim", "deim": metadata}
        (out / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{out} cannot be written: {error}") from error
    return metadata


def _native(stored: StoredWeights) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the weights under native names, and the metadata with the config."""
    if stored.metadata.get("config"):
        return with_current_names(stored.weights), stored.metadata
    identified = identify(stored)
    config = to_portable(identified.config)
    if config is None:
        raise CheckpointError(f"the config of {stored.path} is not plain data, and cannot be stored beside the weights")
    metadata = CheckpointMetadata(
        deim.__version__,
        identified.recipe,
        identified.classes,
        identified.form,
        config=config,
        keypoints=stored.metadata.get("keypoints"),
    )
    return identified.weights, metadata.state_dict()
