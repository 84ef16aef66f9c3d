"""Metadata of exported files: everything that prediction needs besides the file."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from deim.errors import CheckpointError

# Metadata key in files of all formats.
METADATA_KEY = "deim"
# Height and width of images must be multiples of this number of pixels.
STRIDE = 32


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Description of an exported file.

    Attributes:
        version: version of this package.
        class_names: name of each class, in the order of the labels.
        size: (height, width) of the images; with dynamic size, the size at export.
        dynamic_size: whether any height and width that are multiples of 32 are accepted.
        channels: channel order of the images, "RGB" or "BGR".
        postprocess: whether the outputs are scores, labels and boxes, or logits and boxes of all queries.
        dtype: "float32", "float16" or "int8".
        outputs: names of the outputs; see :class:`deim.inference.export.graph.DetectionGraph`.
        skeleton: names and connections of the keypoints, as plain data; see :class:`deim.structures.skeleton.Skeleton`.
            None if the model predicts no keypoints.
        interface: one of :data:`deim.inference.export.options.INTERFACES`. The images of "deim" are uint8, and
            normalization is part of the graph; those of the others are float32 in [0, 1].
        normalization: ``mean`` and ``std`` that the caller applies to images in [0, 1]; None if there are none.
    """

    version: str
    class_names: Sequence[str]
    size: Sequence[int]
    dynamic_size: bool
    channels: str
    postprocess: bool
    dtype: str
    # Files of earlier versions do not state them.
    outputs: Sequence[str] = ("scores", "labels", "boxes")
    skeleton: dict[str, Any] | None = None
    interface: str = "deim"
    normalization: dict[str, Sequence[float]] | None = None

    def to_json(self) -> str:
        content = dataclasses.asdict(self)
        if self.interface == "deim":  # earlier versions of this package read these files too
            del content["interface"], content["normalization"]
        return json.dumps(content)

    @classmethod
    def from_json(cls, text: str | None, path: str) -> "Metadata":
        """Parse the metadata of a file.

        Args:
            text: JSON text; None if the file has no metadata.
            path: path of the file, for error messages.

        Raises:
            CheckpointError: if the file was not exported by this package.
        """
        if text is None:
            raise CheckpointError(f"{path} has no deim metadata: it was not made by deim export")
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{path} has metadata of an unknown format: {error}") from error
