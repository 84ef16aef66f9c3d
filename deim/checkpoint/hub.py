"""Model repositories of the Hugging Face Hub."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deim.errors import CheckpointError, ConfigError

# Prefix of a checkpoint path that names a repository of the Hub: hf://user/model or hf://user/model@revision.
SCHEME = "hf://"
# Files of a repository that are downloaded. Pickles are not among them.
_FILES = ("config.json", "model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", re.ASCII)


def pretrained_path(name: str | Path) -> str:
    """Return the checkpoint path of a folder, or of a repository of the Hub.

    Args:
        name: a folder with ``model.safetensors``; ``"user/model"`` or ``"user/model@revision"``, also after ``hf://``.

    Raises:
        CheckpointError: if ``name`` is neither, or the folder has no safetensors file.
    """
    text = str(name)
    if Path(text).is_dir():
        check_folder(Path(text), text)
        return text
    if not _NAME.fullmatch(text.removeprefix(SCHEME)):
        raise CheckpointError(f"{text} is neither a folder nor the name of a repository of the Hub, such as user/model")
    return SCHEME + text.removeprefix(SCHEME)


def check_folder(folder: Path, name: str) -> None:
    """Raise CheckpointError if a folder has no safetensors file; ``name`` is for the message."""
    if not any((folder / file).is_file() for file in _WEIGHTS):
        raise CheckpointError(
            f"{name} has no model.safetensors. Other files, such as pickles, are not read from model folders: convert "
            "the weights with `deim push CHECKPOINT --folder FOLDER`"
        )


def download_repository(address: str) -> Path:
    """Download config and weights of a repository into the cache of ``huggingface_hub``, and return their folder.

    Args:
        address: ``hf://user/model`` or ``hf://user/model@revision``. The environment variable ``HF_ENDPOINT`` selects
            another server, and ``HF_TOKEN`` gives access to private repositories.

    Raises:
        ConfigError: if ``huggingface_hub`` is not installed.
        CheckpointError: if the repository does not exist, cannot be reached, or has no safetensors file.
    """
    name, _, revision = address.removeprefix(SCHEME).partition("@")
    if not _NAME.fullmatch(name):
        raise CheckpointError(f"{address} does not name a repository: expected {SCHEME}user/model")
    hub = _import_hub()
    try:
        folder = hub.snapshot_download(
            name, revision=revision or None, allow_patterns=list(_FILES), endpoint=_endpoint()
        )
    except Exception as error:  # the types of the errors of the network depend on the version
        raise CheckpointError(
            f"{address} cannot be downloaded: {_reason(error)}. Without a network, copy the repository to a folder on "
            "another machine, and pass the path of the folder"
        ) from error
    check_folder(Path(folder), address)
    return Path(folder)


def upload_folder(folder: Path, files: Sequence[str], name: str, private: bool = False) -> str:
    """Upload a model to a repository of the Hub, which is created if it does not exist.

    Args:
        folder: folder of the model.
        files: names of the files to upload. Others, such as those of an earlier model in this folder, are not uploaded.
        name: ``"user/model"``.
        private: create a private repository.

    Returns:
        the URL of the repository.

    Raises:
        ConfigError: if ``huggingface_hub`` is not installed.
        CheckpointError: if the upload fails.
    """
    api = _import_hub().HfApi(endpoint=_endpoint())
    try:
        url = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=folder, allow_patterns=list(files), commit_message="Upload a model of deim"
        )
    except Exception as error:  # as above
        raise CheckpointError(
            f"{folder} cannot be uploaded to {name}: {_reason(error)}. Run `hf auth login`, or set HF_TOKEN to a token "
            "with write access"
        ) from error
    return str(url)


def check_repository_name(name: str) -> None:
    """Raise ConfigError unless a name has the form ``user/model``."""
    if not _NAME.fullmatch(name) or "@" in name:
        raise ConfigError(f"{name} is not the name of a repository: expected user/model")


def _import_hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ConfigError("the Hugging Face Hub needs the package huggingface_hub: pip install 'deim[hub]'") from error
    return huggingface_hub


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _reason(error: Exception) -> str:
    """Return the first line of an error, whose further lines repeat the request and give general advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
