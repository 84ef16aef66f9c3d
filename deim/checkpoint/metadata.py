"""Metadata of a checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

from deim.errors import CheckpointError


class CheckpointMetadata:
    """Metadata that every checkpoint stores under the key ``deim``.

    Args:
        version: version of this package.
        recipe: name of the recipe, or path of the config.
        classes: class names in the order of the scores; None if unknown.
        form: "training" or "deployment".
        config: part of the config that inference needs, as plain data; see :mod:`deim.config.portable`.
        keypoints: names and connections of the keypoints, as plain data; see :class:`deim.structures.skeleton.Skeleton`.
    """

    def __init__(
        self,
        version: str,
        recipe: str,
        classes: Sequence[str] | None,
        form: str = "training",
        config: Mapping[str, Any] | None = None,
        keypoints: Mapping[str, Any] | None = None,
    ):
        self.content: dict[str, Any] = {
            "version": version,
            "recipe": recipe,
            "classes": list(classes or ()),
            "form": form,
        }
        if config is not None:
            self.content["config"] = dict(config)
        if keypoints is not None:
            self.content["keypoints"] = dict(keypoints)

    def state_dict(self) -> dict[str, Any]:
        return dict(self.content)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Ignore the stored state: a resumed run keeps its current metadata."""


def check_metadata(metadata: Any, path: str) -> dict[str, Any]:
    """Return the metadata of a file of unknown origin.

    Args:
        metadata: content of the key ``deim``; empty for files of other code.
        path: path of the file, for messages.

    Raises:
        CheckpointError: if a value has another type than :class:`CheckpointMetadata` writes.
    """
    if not isinstance(metadata, Mapping):
        raise CheckpointError(f"the metadata in {path} must be a mapping, not {type(metadata).__name__}")
    wrong = [
        name for name, is_valid in _VALID.items() if metadata.get(name) is not None and not is_valid(metadata[name])
    ]
    if wrong:
        raise CheckpointError(f"the metadata in {path} is malformed: {wrong[0]} has an unexpected value")
    return dict(metadata)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_text, value))


def _is_config(value: Any) -> bool:
    # The keys of deim.config.portable.PORTABLE_KEYS
    return isinstance(value, Mapping) and all(
        isinstance(value.get(part), Mapping) and _is_text(value[part].get("_target_")) for part in ("model", "mapper")
    )


def _is_skeleton(value: Any) -> bool:
    if not isinstance(value, Mapping) or not _is_list_of_text(value.get("names")):
        return False
    pairs, indices = value.get("connections"), range(len(value["names"]))
    return isinstance(pairs, list | tuple) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 and all(index in indices for index in pair) for pair in pairs
    )


_VALID = {
    "version": _is_text,
    "recipe": _is_text,
    "classes": _is_list_of_text,
    "form": _is_text,
    "config": _is_config,
    "keypoints": _is_skeleton,
}
