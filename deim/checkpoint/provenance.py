"""What a checkpoint says of itself."""

from collections.abc import Mapping, Sequence
from typing import Any


class Provenance:
    """Saved with every checkpoint under the key ``deim``.

    Args:
        version: of this package.
        recipe: name of the recipe, or path of the config.
        classes: names, in the order of the scores; None where they are not known.
        form: "training" or "deployment".
        config: what predicting needs of the config, as plain data; see :mod:`deim.config.portable`.
    """

    def __init__(
        self,
        version: str,
        recipe: str,
        classes: Sequence[str] | None,
        form: str = "training",
        config: Mapping[str, Any] | None = None,
    ):
        self.content: dict[str, Any] = {
            "version": version,
            "recipe": recipe,
            "classes": list(classes or ()),
            "form": form,
        }
        if config is not None:
            self.content["config"] = dict(config)

    def state_dict(self) -> dict[str, Any]:
        return dict(self.content)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """A resumed run keeps saying what it is now."""
