"""What an exported file says of itself, so that it alone is enough to predict with."""

import dataclasses
import json
from collections.abc import Sequence

from deim.errors import CheckpointError

# Under which it stands in files of all formats.
KEY = "deim"
# Height and width of images are multiples of it.
STRIDE = 32


@dataclasses.dataclass(frozen=True)
class Metadata:
    """
    Attributes:
        version: of this package.
        class_names: of the labels.
        size: (height, width) of the images; of any size, those that it was made for.
        dynamic_size: whether it takes images of any height and width that are multiples of 32.
        channels: of the images, "RGB" or "BGR". They are bytes, and normalized inside.
        postprocess: whether there are scores, labels and boxes, or logits and boxes of all queries.
        dtype: "float32", "float16" or "int8".
    """

    version: str
    class_names: Sequence[str]
    size: Sequence[int]
    dynamic_size: bool
    channels: str
    postprocess: bool
    dtype: str

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | None, path: str) -> "Metadata":
        """
        Args:
            text: None where the file says nothing.
            path: for messages.

        Raises:
            CheckpointError: it is no file that this package has exported.
        """
        if text is None:
            raise CheckpointError(f"{path} does not say what it takes and gives: it was not made by deim export")
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{path} describes itself in a way that is not known here: {error}") from error
