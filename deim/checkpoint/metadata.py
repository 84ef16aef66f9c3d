"""Metadata of a checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any


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
